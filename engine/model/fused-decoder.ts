import { dispose, keep } from '@tensorflow/tfjs-core';
import { windowOf } from '../formats/llama-config.js';
import { causalAttention } from '../tensor/causal-attention.js';
import { fusedDecoder, hasFusedDecoder, type Decoder, type DecoderLinear, type DecoderModel } from '../tensor/decoder.js';
import type { Llama } from './llama.js';
import { readPrompts } from './read-prompts.js';
import { ropeTables, rotated } from './rope-tables.js';
import type { Sampling } from './sample.js';
import { modulePath, type BlockModule } from '../formats/linear-modules.js';

/** Models and adapters by number: an address may come to be another's. */
const numbers = new WeakMap<object, number>();
let numbered = 0;
const none = {};

function numberOf(one: object): number {
  const known = numbers.get(one) ?? ++numbered;
  numbers.set(one, known);
  return known;
}

/**
 * A decoder of the backend's own, with the prompts read; undefined where the backend has none for this model.
 * @param longest positions that a row may come to, prompt included
 */
export function startFusedDecoder(llama: Llama, prompts: readonly (readonly number[])[], longest: number, sampling?: Sampling): Decoder | undefined {
  if (!hasFusedDecoder()) return undefined;
  const { config } = llama.model;
  const rope = ropeTables(config, Array.from({ length: longest }, (_, position) => position), [longest, 1]);
  keep(rope.cos);
  keep(rope.sin);
  const decoder = fusedDecoder(decoderModel(llama), { lengths: prompts.map(({ length }) => length), capacity: longest, rope, sampling });
  if (!decoder) {
    dispose([rope.cos, rope.sin]);
    return undefined;
  }
  const disposeDecoder = (): void => {
    decoder.dispose();
    dispose([rope.cos, rope.sin]);
  };
  try {
    const hidden = readPrompts(llama, prompts, (layer, q, k, v, segments, rope) => {
      const keys = rotated(k, rope);
      decoder.fill(layer, keys, v);
      return causalAttention(rotated(q, rope), keys, v, segments, { window: windowOf(config, layer) });
    }, { recording: { key: `prompts ${numberOf(llama.model)} ${numberOf(llama.adapter ?? none)} ${decoder.place}`, parameters: llama.adapter?.parameters().map(({ variable }) => variable) ?? [] } });
    decoder.start(hidden);
    hidden.dispose();
  } catch (error) {
    disposeDecoder();
    throw error;
  }
  return {
    ahead: decoder.ahead,
    queue: () => decoder.queue(),
    read: () => decoder.read(),
    keep: (rows) => decoder.keep(rows),
    dispose: disposeDecoder,
  };
}

/** The model as a decode step needs it. */
function decoderModel({ model, adapter }: Llama): DecoderModel {
  const { heads, kvHeads, headDim, rmsNormEps, unrotatedLayers } = model.config;
  return {
    heads, kvHeads, headDim, rmsNormEps,
    embedding: model.embedding,
    norm: model.norm,
    head: { weight: model.head, lora: adapter?.branch('lm_head') },
    blocks: model.blocks.map(({ inputNorm, postAttentionNorm, linear, biases, qkNorm }, layer) => {
      const of = (name: BlockModule): DecoderLinear => ({ weight: linear[name], lora: adapter?.branch(modulePath(layer, name)), bias: biases?.[name] });
      return {
        inputNorm, postAttentionNorm, qkNorm,
        query: of('q_proj'), key: of('k_proj'), value: of('v_proj'), output: of('o_proj'), gate: of('gate_proj'), up: of('up_proj'), down: of('down_proj'),
        window: windowOf(model.config, layer),
        rotated: unrotatedLayers?.includes(layer) !== true,
      };
    }),
  };
}
