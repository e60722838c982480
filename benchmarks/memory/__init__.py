"""How much memory a rank of a real run needs at most, from the build to a save and a load."""
