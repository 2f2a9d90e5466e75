"""What all figures and pages share: style, formatting of numbers, tooltips."""
