"""What sharding and the update cost beside the plain form."""
