"""A trained model in use: embed, score, fill masks, generate, look inside. ``lmzoo.load`` opens one."""
