"""tidings: hears of every change in SaaS accounts and tells an application once."""
