"""Text to batches: records, tokenizer, chat template, packing."""
