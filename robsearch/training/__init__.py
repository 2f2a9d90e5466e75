"""How one model is trained and judged. Read ``trainer.py`` first."""
