"""Which segment comes next: halving decides who goes on, a sampler what is new."""
