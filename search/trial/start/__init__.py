"""What a student starts from: the teacher's layers, its embeddings cut or factorised, and of its width what matters most."""
