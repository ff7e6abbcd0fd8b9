"""Adapters: networks tuned by few parameters of their own. The registry lists the methods; attach puts one on."""
