"""The console: pages for the people who work the alerts, rendered on the server and live by the feed."""
