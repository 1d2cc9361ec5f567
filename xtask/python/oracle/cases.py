"""Small models of every family, in shapes and settings as odd as the published ones.

Each is a `config.json` as a checkpoint has it. `REFUSED` are those that no export may take, and the
setting that is named for it.
"""

TOKENS, SEQ_LEN = 40, 48
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 160,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {
    "type": "longrope",
    "short_factor": [1.0 + 0.1 * n for n in range(6)],
    "long_factor": [2.0 + n for n in range(6)],
}
# The first layers of Gemma 3 have a window, every sixth has none.
GEMMA = {"head_dim": 32, "num_hidden_layers": 7, "sliding_window": 64, "query_pre_attn_scalar": 32}
PHI = {
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 64,
    "rope_scaling": LONG,
    "sliding_window": 262144,
}
PROGRAMS = {
    "llama": "LlamaForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}
CASES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True, "rope_theta": 5e5}),
    "llama-llama3": ("llama", {"rope_scaling": LLAMA3, "head_dim": 32}),
    "llama-linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama-dynamic": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "llama-yarn": ("llama", {"rope_scaling": YARN, "num_key_value_heads": 4}),
    "llama-yarn-own": (
        "llama",
        {
            "rope_scaling": {
                **YARN,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "attention_factor": 1.25,
                "truncate": False,
            }
        },
    ),
    "llama-yarn-mscale": (
        "llama",
        {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    ),
    "llama-longrope": (
        "llama",
        {
            "rope_scaling": {
                **LONG,
                "short_factor": [1.0 + 0.1 * n for n in range(8)],
                "long_factor": [2.0] * 8,
                "original_max_position_embeddings": 64,
                "factor": 2.0,
            }
        },
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "smollm3-listed": (
        "smollm3",
        {"no_rope_layers": [0, 1], "tie_word_embeddings": False, "rope_theta": 5e6},
    ),
    "smollm3-yarn": ("smollm3", {"num_hidden_layers": 4, "rope_scaling": YARN}),
    "smollm3-window": ("smollm3", {"use_sliding_window": True, "sliding_window": 64}),
    "mistral": ("mistral", {"rope_theta": 1e6}),
    "mistral-window": ("mistral", {"sliding_window": SEQ_LEN, "head_dim": 32}),
    "mistral-no-window": ("mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen2-untied": ("qwen2", {"num_key_value_heads": 1, "hidden_size": 96}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
    ),
    "qwen2-yarn": ("qwen2", {"rope_scaling": YARN}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen3-default-head": ("qwen3", {"hidden_size": 48}),
    "qwen3-yarn": ("qwen3", {"head_dim": 64, "rope_scaling": YARN}),
    "gemma3": ("gemma3_text", GEMMA),
    "gemma3-scalar": ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 50, "rope_theta": 2e6}),
    "gemma3-linear": (
        "gemma3_text",
        {
            **GEMMA,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 5000.0,
        },
    ),
    "gemma3-listed": (
        "gemma3_text",
        {
            **GEMMA,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "tie_word_embeddings": False,
            "hidden_size": 48,
        },
    ),
    "gemma3-global": (
        "gemma3_text",
        {**GEMMA, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2},
    ),
    "phi3": ("phi3", {**PHI, "tie_word_embeddings": True}),
    "phi3-untied": ("phi3", {**PHI, "num_key_value_heads": 4}),
    "phi3-su": (
        "phi3",
        {**PHI, "rope_scaling": {**LONG, "type": "su", "original_max_position_embeddings": 64}},
    ),
    "phi3-default": ("phi3", {"sliding_window": 64, "num_hidden_layers": 3}),
    "phi3-half": ("phi3", {"partial_rotary_factor": 0.5, "head_dim": 16}),
}
REFUSED: dict[str, tuple[str, dict, str]] = {
    "unknown": ("gpt2", {}, "model_type"),
    "llama-bias": ("llama", {"attention_bias": True}, "attention_bias"),
    "llama-mlp-bias": ("llama", {"mlp_bias": True}, "mlp_bias"),
    "llama-partial": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "llama-gelu": ("llama", {"hidden_act": "gelu"}, "hidden_act"),
    "llama-code": ("llama", {"auto_map": {"AutoModelForCausalLM": "a.B"}}, "auto_map"),
    "llama-rope": ("llama", {"rope_scaling": {"type": "proportional"}}, "rope_type"),
    "llama-long-dynamic": (
        "llama",
        {"max_position_embeddings": 32, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "rope_type",
    ),
    "smollm3-bias": ("smollm3", {"attention_bias": True}, "attention_bias"),
    "mistral-window": ("mistral", {"sliding_window": 32}, "sliding_window"),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 0},
        "sliding_window",
    ),
    "qwen3-bias": ("qwen3", {"attention_bias": True}, "attention_bias"),
    "gemma3-cap": ("gemma3_text", {**GEMMA, "final_logit_softcapping": 30.0}, "final_logit"),
    "gemma3-scores": ("gemma3_text", {**GEMMA, "attn_logit_softcapping": 50.0}, "attn_logit"),
    "gemma3-both-ways": (
        "gemma3_text",
        {**GEMMA, "use_bidirectional_attention": True},
        "use_bidirectional_attention",
    ),
    "gemma3-window": ("gemma3_text", {**GEMMA, "sliding_window": 32}, "sliding_window"),
    "phi3-long": ("phi3", {**PHI, "original_max_position_embeddings": 32}, "rope_type"),
    "phi3-window": ("phi3", {"sliding_window": 32}, "sliding_window"),
}


def config(kind: str, changes: dict) -> dict:
    """A whole `config.json`."""
    program = PROGRAMS.get(kind, "GPT2LMHeadModel")
    return {"model_type": kind, "architectures": [program], **SIZES, **changes}
