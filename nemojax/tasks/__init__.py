"""Tasks with verifiers, and graders of answers."""
