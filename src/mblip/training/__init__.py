"""Training: one loop, three kinds of run (text, vision, vision-LLM)."""
