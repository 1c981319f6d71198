"""temporary."""
