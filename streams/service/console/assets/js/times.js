// Times are sent in UTC; people read them in their own zone.
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function showTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-when]:not([title])")) {
    element.title = element.textContent;
    element.textContent = full.format(new Date(element.dateTime));
  }
}
