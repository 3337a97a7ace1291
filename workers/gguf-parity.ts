import type { EvaluationPrompt, GgufFile, ParityCheck } from '../contracts/stages.js';
import { packRows } from '../engine/data/batches.js';
import type { WeightSource } from '../engine/formats/weight-source.js';
import type { LoraAdapter } from '../engine/model/adapter.js';
import { logitsAt, readSample, type Sample } from '../engine/train/merge-fidelity.js';
import type { LlamaCppModel } from './llama-cpp.js';

/** Prompts that are asked. */
const mostPrompts = 4;
/** Tokens of each answer. */
export const answerTokens = 16;

/**
 * Largest mean divergence (nats) that counts as agreement. A file of half floats computes the same but for rounding; 8 bits change
 * little; 4 bits change the model, and are wrong only when they change it beyond recognition.
 */
const tolerances: Record<GgufFile['type'], number> = { f16: 0.002, q8_0: 0.02, q4_k_m: 0.5, adapter: 0.02 };

/** What llama.cpp was asked, and what it answered. */
export interface Question {
  promptIds: readonly number[];
  text: string;
  /** Greedy. */
  answer: number[];
}

/** The configured prompts first, then test rows; answered by a GGUF in llama.cpp. */
export async function askLlamaCpp(model: LlamaCppModel, prompts: readonly EvaluationPrompt[], endIds: readonly number[]): Promise<Question[]> {
  const chosen = [...prompts].sort((a, b) => Number(a.reference !== null) - Number(b.reference !== null)).slice(0, mostPrompts);
  const questions: Question[] = [];
  for (const { prompt, promptIds } of chosen) questions.push({ text: prompt, promptIds, answer: await model.greedy(promptIds, answerTokens, endIds) });
  return questions;
}

/** The engine's logits for every token of the answers, [tokens, vocabulary] a question. The model's blocks are in memory one at a time. */
export async function engineLogits(
  source: WeightSource, adapter: LoraAdapter | undefined, questions: readonly Question[], onBlock: (done: number, total: number) => Promise<void>,
): Promise<Float32Array[]> {
  const ids = questions.map(({ promptIds, answer }) => Int32Array.from([...promptIds, ...answer]));
  const masks = questions.map(({ promptIds, answer }) => Uint8Array.from([...promptIds.map(() => 0), ...answer.map(() => 1)]));
  const rows = { count: ids.length, length: (row: number) => ids[row].length, ids: (row: number) => ids[row], mask: (row: number) => masks[row] };
  const batches = questions.map((_, row) => packRows(rows, [row]));
  const sample: Sample = { batches, tokens: 0, countedTokens: 0 };
  const reading = await readSample(source, { dtype: 'f32' }, adapter, sample, onBlock);
  try {
    const logits: Float32Array[] = [];
    for (const [row, { answer }] of questions.entries()) logits.push(await logitsAt(reading, row, 0, answer.length));
    return logits;
  } finally {
    reading.dispose();
  }
}

/** Holds llama.cpp's distributions over the answers' tokens against the engine's. */
export async function checkParity(model: LlamaCppModel, type: GgufFile['type'], questions: readonly Question[], logits: readonly Float32Array[], bos: number | undefined): Promise<ParityCheck> {
  let [tokens, agreeing, divergence, sameTokens] = [0, 0, 0, 0];
  for (const [row, { text, promptIds, answer }] of questions.entries()) {
    const own = model.tokenize(text);
    if ([promptIds, promptIds[0] === bos ? promptIds.slice(1) : promptIds].some((ids) => ids.join() === own.join())) sameTokens++;
    const distributions = await model.distributions([...promptIds, ...answer.slice(0, -1)], answer.length);
    const vocabulary = logits[row].length / answer.length;
    distributions.forEach((q, place) => {
      const { kl, sameBest } = compareWithProbabilities(logits[row].subarray(place * vocabulary, (place + 1) * vocabulary), q);
      divergence += kl;
      agreeing += Number(sameBest);
      tokens++;
    });
  }
  const kl = divergence / tokens;
  const tolerance = tolerances[type];
  const state = kl <= tolerance && sameTokens === questions.length ? 'agrees' : 'differs';
  return { state, prompts: questions.length, sameTokens, tokens, agreement: agreeing / tokens, kl, tolerance };
}

/** Smallest probability that counts: llama.cpp's are float32, which may be zero. */
const tiny = 1e-40;

/** KL(softmax logits ‖ probabilities) in nats, and whether both have the same maximum. */
export function compareWithProbabilities(logits: Float32Array, probabilities: Float32Array): { kl: number; sameBest: boolean } {
  let [bestP, bestQ, sumQ] = [0, 0, 0];
  for (let i = 0; i < logits.length; i++) {
    if (logits[i] > logits[bestP]) bestP = i;
    if (probabilities[i] > probabilities[bestQ]) bestQ = i;
    sumQ += probabilities[i];
  }
  let [sumP, weighted] = [0, 0];
  for (let i = 0; i < logits.length; i++) {
    const weight = Math.exp(logits[i] - logits[bestP]);
    sumP += weight;
    if (weight > 0) weighted += weight * (logits[i] - logits[bestP] - Math.log(Math.max(probabilities[i] / sumQ, tiny)));
  }
  return { kl: Math.max(0, weighted / sumP - Math.log(sumP)), sameBest: bestP === bestQ };
}

