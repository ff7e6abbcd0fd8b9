"""From a YAML file to stages, and back."""
