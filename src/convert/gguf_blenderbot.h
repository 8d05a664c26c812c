/*
 * gguf_blenderbot.h - what a Blenderbot GGUF holds: the contract between the writer (this folder)
 * and the reader (engine/blenderbot/, which may not include this file: floors).
 *
 * Every row of a matrix is one output: ne[0] is the input width, as PyTorch's (out, in) lies in
 * memory.  u32, f32, bool, str: GGUF types.
 *
 * Keys, always there unless said otherwise
 *   general.architecture "blenderbot"; general.name str (the folder's name); general.file_type u32
 *   (llama.cpp's numbers: 0 f32, 1 f16, 7 q8_0, 2 q4_0 …); general.quantization_version u32
 *   blenderbot.vocab_size u32              rows of token_embd
 *   blenderbot.embedding_length u32        d_model
 *   blenderbot.context_length u32          max_position_embeddings, of encoder and decoder alike
 *   blenderbot.{encoder,decoder}.block_count u32
 *   blenderbot.{encoder,decoder}.attention.head_count u32     divides embedding_length
 *   blenderbot.{encoder,decoder}.feed_forward_length u32
 *   blenderbot.attention.layer_norm_epsilon f32               1e-5, as published (not in configs)
 *   blenderbot.activation_function str     as config.json has it, one of: gelu gelu_python (erf);
 *                                          gelu_new gelu_fast gelu_accurate gelu_pytorch_tanh
 *                                          gelu_python_tanh (tanh); relu; silu swish (the same)
 *   blenderbot.scale_embedding bool        token embeddings × √embedding_length
 *   blenderbot.decoder_start_token_id u32
 *   blenderbot.generation.NAME             defaults of generate; a key is absent where the
 *                                          checkpoint does not set it (null is not set).  NAME:
 *     u32   num_beams num_return_sequences no_repeat_ngram_size encoder_no_repeat_ngram_size
 *           min_length min_new_tokens max_length max_new_tokens top_k forced_bos_token_id
 *     f32   length_penalty repetition_penalty encoder_repetition_penalty temperature top_p
 *     bool  do_sample remove_invalid_values renormalize_logits
 *     str   early_stopping: "true" "false" "never"
 *     [i32] eos_token_id: what ends a reply, at most 8, possibly none; where the key is absent:
 *           the tokenizer's.  suppress_tokens begin_suppress_tokens; bad_words_ids: one word behind
 *           the other, each ended by −1.  forced_eos_token_id: u32, or [i32] where it is several
 *
 * Tokenizer (byte-level BPE)
 *   tokenizer.ggml.model "gpt2"; tokenizer.ggml.pre "gpt-2"
 *   tokenizer.ggml.tokens [str]            vocab_size of them, by id, in the byte-level alphabet
 *                                          (special ones as they are read); ids that the vocabulary
 *                                          leaves out are "[UNUSEDid]", type 5, and read as nothing
 *   tokenizer.ggml.token_type [i32]        1 normal, 2 unknown, 3 control, 4 added, 5 unused
 *   tokenizer.ggml.merges [str]            "left right", best first
 *   tokenizer.ggml.{bos,eos,padding,unknown}_token_id u32     eos: what follows a prompt.
 *                                          unknown: absent where there is none
 *   tokenizer.ggml.add_space_prefix bool   tokenizer.ggml.add_bos_token false
 *   tokenizer.ggml.add_eos_token true
 *
 * Tensors; {w,b} are .weight and .bias.  D embedding_length, V vocab_size, P context_length, F the
 * side's feed_forward_length; ne order
 *   token_embd.weight [D,V]                embeddings of both sides and the output's matrix (tied)
 *   output.bias [V]                        final_logits_bias
 *   enc.position_embd.weight [D,P]         dec.position_embd.weight [D,P]      no offset
 *   enc.output_norm.{w,b} [D]              dec.output_norm.{w,b} [D]
 *   for each block i of the encoder:
 *     enc.blk.i.attn_norm.{w,b} [D]        before self-attention
 *     enc.blk.i.attn_{q,k,v,o}.{w,b}       [D,D], [D]
 *     enc.blk.i.ffn_norm.{w,b} [D]         before the feed-forward part (final_layer_norm)
 *     enc.blk.i.ffn_up.{w,b}   [D,F], [F]  fc1
 *     enc.blk.i.ffn_down.{w,b} [F,D], [D]  fc2
 *   for each block i of the decoder: the same with dec., and
 *     dec.blk.i.cross_attn_norm.{w,b}, dec.blk.i.cross_attn_{q,k,v,o}.{w,b}
 *
 * Weight types: norms, biases and position embeddings are f32 always.  The matrices of blocks have
 * the type asked for; where a row is no multiple of its block, f16.  token_embd: f32, f16, bf16 as
 * asked for, else q8_0 (it decides the logits), or f16 where D is no multiple of 32.  An f16 file
 * is the f16 checkpoint's own precision, half as large: an engine that owes Hugging Face's very
 * tokens widens it to f32 when it loads.
 */
#ifndef WYVERN_CONVERT_GGUF_BLENDERBOT_H
#define WYVERN_CONVERT_GGUF_BLENDERBOT_H

#define GGUF_ARCHITECTURE     "blenderbot"
#define LAYER_NORM_EPSILON    1e-5f
#define BLENDERBOT_MAX_BLOCKS 256

#endif
