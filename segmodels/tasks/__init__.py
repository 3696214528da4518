"""Tasks: what is predicted, how it is learnt and measured."""
