// Times are sent in UTC; people read them in their own zone, as ISO 8601 writes them: no order of day and month to guess.
export function local(ms) {
  return new Date(ms - new Date(ms).getTimezoneOffset() * 60_000).toISOString().slice(0, 19).replace("T", " ");
}

export function showTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-when]:not([title])")) {
    element.title = element.textContent;
    element.textContent = local(Date.parse(element.dateTime));
  }
}
