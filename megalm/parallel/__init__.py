"""The engines, which do not know one another: tensor, pipeline, data."""
