"""Models: networks, their loading, and the machine they run on. Importing this imports no torch."""
