import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/** What of node-llama-cpp is used. It is loaded from where it was set up, as it is no dependency. */
interface Library {
  getLlama(options: { gpu: false; build: 'never'; skipDownload: true; logLevel: 'error' }): Promise<{
    loadModel(options: { modelPath: string }): Promise<Model>;
    dispose(): Promise<void>;
  }>;
}
interface Model {
  tokenize(text: string, specialTokens: boolean): readonly number[];
  createContext(options: { contextSize: number; sequences: 1; threads: number; lora?: string }): Promise<{ getSequence(): Sequence; dispose(): Promise<void> }>;
  dispose(): Promise<void>;
}
type EvaluateInput = number | [token: number, options: { generateNext: { probabilities: true } }];
interface Sequence {
  controlledEvaluate(input: readonly EvaluateInput[]): Promise<readonly ({ next: { probabilities?: ReadonlyMap<number, number> } } | undefined)[]>;
  clearHistory(): Promise<void>;
}

/** llama.cpp's threads wait for each other by spinning: more of them than there are free cores make it slower a hundredfold. */
const threads = Math.max(1, Math.floor(availableParallelism() / 2));

/** A GGUF that llama.cpp has loaded, on the CPU. */
export interface LlamaCppModel {
  /** Token ids of a text, special tokens in it recognised, nothing added around it. */
  tokenize(text: string): number[];
  /** Distributions over the vocabulary after each of the last `count` tokens. */
  distributions(ids: readonly number[], count: number): Promise<Float32Array[]>;
  /** The likeliest tokens after a prompt, one after the other, until one of `ends` or `count` of them. */
  greedy(ids: readonly number[], count: number, ends: readonly number[]): Promise<number[]>;
  dispose(): Promise<void>;
}

/**
 * Loads a GGUF into llama.cpp.
 * @param directory where node-llama-cpp is installed
 * @param lora a GGUF adapter on top of it
 */
export async function openLlamaCpp(directory: string, path: string, options: { vocabSize: number; contextSize: number; lora?: string }): Promise<LlamaCppModel> {
  const { getLlama } = (await import(pathToFileURL(join(directory, 'node_modules/node-llama-cpp/dist/index.js')).href)) as Library;
  const llama = await getLlama({ gpu: false, build: 'never', skipDownload: true, logLevel: 'error' });
  const model = await llama.loadModel({ modelPath: path });
  const context = await model.createContext({ contextSize: options.contextSize, sequences: 1, threads, ...(options.lora !== undefined && { lora: options.lora }) });
  const sequence = context.getSequence();

  const evaluate = async (ids: readonly number[], count: number): Promise<Float32Array[]> => {
    const first = ids.length - count;
    const outputs = await sequence.controlledEvaluate(ids.map((id, i) => (i < first ? id : [id, { generateNext: { probabilities: true } }])));
    return outputs.slice(first).map((output) => {
      const distribution = new Float32Array(options.vocabSize);
      for (const [id, probability] of output!.next.probabilities!) distribution[id] = probability;
      return distribution;
    });
  };
  return {
    tokenize: (text) => Array.from(model.tokenize(text, true)),
    async distributions(ids, count) {
      await sequence.clearHistory();
      return evaluate(ids, count);
    },
    async greedy(ids, count, ends) {
      await sequence.clearHistory();
      const answer: number[] = [];
      let read = ids;
      while (answer.length < count) {
        const [distribution] = await evaluate(read, 1);
        const best = distribution.indexOf(distribution.reduce((a, b) => Math.max(a, b)));
        answer.push(best);
        if (ends.includes(best)) break;
        read = [best];
      }
      return answer;
    },
    async dispose() {
      await context.dispose();
      await model.dispose();
      await llama.dispose();
    },
  };
}
