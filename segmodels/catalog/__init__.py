"""The architectures by name: their cards, figures, recipes and published weights."""
