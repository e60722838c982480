"""Speed of generation with a cache, beside transformers' generate."""
