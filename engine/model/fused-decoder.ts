import { dispose, keep } from '@tensorflow/tfjs-core';
import { windowOf } from '../formats/llama-config.js';
import { causalAttention } from '../tensor/causal-attention.js';
import { fusedDecoder, hasFusedDecoder, type Decoder, type DecoderLinear, type DecoderModel, type FusedDecoder } from '../tensor/decoder.js';
import type { Llama } from './llama.js';
import { readPrompts } from './read-prompts.js';
import { ropeTables, rotated } from './rope-tables.js';
import type { Sampling } from './sample.js';
import { modulePath, type BlockModule } from '../formats/linear-modules.js';

/** Models and adapters by number: an address may come to be another's. */
const numbers = new WeakMap<object, number>();
let numbered = 0;

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
  let decoder: FusedDecoder | undefined;
  const disposeAll = (): void => {
    decoder?.dispose();
    dispose([rope.cos, rope.sin]);
  };
  try {
    decoder = fusedDecoder(decoderModel(llama), { lengths: prompts.map(({ length }) => length), capacity: longest, rope, sampling });
    if (decoder) readInto(decoder, llama, prompts);
  } catch (error) {
    disposeAll();
    throw error;
  }
  if (!decoder) {
    disposeAll();
    return undefined;
  }
  const started = decoder;
  return {
    ahead: started.ahead,
    queue: () => started.queue(),
    read: () => started.read(),
    keep: (rows) => started.keep(rows),
    dispose: disposeAll,
  };
}

/** Gives a decoder the prompts' keys and values, and what its first step begins with. */
function readInto(decoder: FusedDecoder, llama: Llama, prompts: readonly (readonly number[])[]): void {
  const { model, adapter } = llama;
  const recording = { key: `prompts ${numberOf(model)} ${adapter ? numberOf(adapter) : 'alone'} ${decoder.place}`, parameters: adapter?.parameters().map(({ variable }) => variable) ?? [] };
  const hidden = readPrompts(llama, prompts, (layer, q, k, v, segments, rope) => {
    const keys = rotated(k, rope);
    decoder.fill(layer, keys, v);
    return causalAttention(rotated(q, rope), keys, v, segments, { window: windowOf(model.config, layer) });
  }, { recording });
  decoder.start(hidden);
  hidden.dispose();
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
