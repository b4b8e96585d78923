"""Health, readiness and the scrape."""
