"""Settings: frozen records with defaults and limits, and what a person writes made into them."""
