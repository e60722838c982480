"""What is computed: decoder families, their sizes and closed-form counts, and the builder of any span of layers."""
