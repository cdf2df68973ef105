"""From text to batches: records, tokenizer, chat template, packing."""
