import { mkdir, readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { baseReference } from '../contracts/hub-pin.js';
import type { GgufFile, ParityCheck } from '../contracts/stages.js';
import type { TrainerJob } from '../contracts/trainer-messages.js';
import { writeGgufModel } from '../engine/formats/gguf-write-model.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import { openModel } from '../engine/formats/open-model.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';
import type { WeightSource } from '../engine/formats/weight-source.js';
import type { LoraAdapter } from '../engine/model/adapter.js';
import { ggufAdapterProblems, writeGgufAdapter } from '../engine/model/gguf-adapter.js';
import { answerTokens, askLlamaCpp, checkParity, engineLogits } from './gguf-parity.js';
import { openLlamaCpp, type LlamaCppModel } from './llama-cpp.js';
import { log } from './trainer-channel.js';

type MergeJob = Extract<TrainerJob, { kind: 'merge' }>;
interface WrittenFile {
  path: string;
  type: GgufFile['type'];
  check: ParityCheck;
}

export interface ExportInput {
  job: MergeJob;
  /** The base. */
  source: WeightSource;
  adapter: LoraAdapter;
  tokenizer: Tokenizer;
  /** The Hugging Face directory of the merged model. */
  merged: string;
  onProgress(phase: string, done: number, total: number): Promise<void>;
}

/** Writes the GGUF files that the job asks for, the adapter's with them, and lets llama.cpp read each where it is there. */
export async function exportGguf(input: ExportInput): Promise<{ files: WrittenFile[]; notes: string[] }> {
  const { job, onProgress } = input;
  const directory = join(job.outputDirectory, 'gguf');
  await mkdir(directory, { recursive: true });
  const merged = await openModel(input.merged);
  try {
    const files: Omit<WrittenFile, 'check'>[] = [];
    for (const type of job.export.gguf) {
      const path = join(directory, `model-${type}.gguf`);
      await writeGgufModel(path, { source: merged, tokenizer: input.tokenizer, name: nameOf(job), license: job.model.license }, type, (done, total) => onProgress(`writing ${type} GGUF`, done, total));
      files.push({ path, type });
    }
    const checks = await checkModels(input, merged, files);
    const written = files.map((file, i) => ({ ...file, check: checks[i] }));
    const notes = windowNotes(merged.config);
    const problems = ggufAdapterProblems(input.source.config, input.adapter);
    if (problems.length === 0) return { files: [...written, await exportAdapter(input, directory)], notes };
    return { files: written, notes: [...notes, `The adapter has no GGUF, which cannot hold ${problems.join(', ')}; the merged model has it all.`] };
  } finally {
    await merged.close();
  }
}

/** llama.cpp reads the architectures that may have a window at all (see `ggufProblems`) without it. */
const windowNotes = ({ slidingWindow, contextLength }: LlamaConfig): string[] =>
  slidingWindow && slidingWindow.size < contextLength ? [`llama.cpp reads this model without its sliding window: beyond ${slidingWindow.size} tokens the GGUF files answer otherwise than the model.`] : [];

const notChecked = (reason: string): ParityCheck => ({ state: 'not checked', reason });
/** As infra/tools/llama-cpp.mjs sets it up. */
const notInstalled = 'llama.cpp is not set up; npm run setup -- --llama-cpp does that';

async function checkModels({ job, tokenizer, onProgress }: ExportInput, merged: WeightSource, files: readonly Omit<WrittenFile, 'check'>[]): Promise<ParityCheck[]> {
  if (job.llamaCpp === undefined) return files.map(() => notChecked(notInstalled));
  if (job.prompts.length === 0) return files.map(() => notChecked('the run has no prompts'));
  const questions = await withLlamaCpp(job, merged, files[0].path, (model) => askLlamaCpp(model, job.prompts, merged.config.eosTokenIds));
  if ('state' in questions) return files.map(() => questions);
  const logits = await engineLogits(merged, undefined, questions, (done, total) => onProgress('reading the answers of llama.cpp', done, total));
  const checks: ParityCheck[] = [];
  for (const { path, type } of files) {
    await onProgress('checking with llama.cpp', checks.length, files.length);
    checks.push(await withLlamaCpp(job, merged, path, (model) => checkParity(model, type, questions, logits, tokenizer.bosTokenId)));
  }
  return checks;
}

async function exportAdapter(input: ExportInput, directory: string): Promise<WrittenFile> {
  const { job, source, adapter } = input;
  const path = join(directory, 'adapter.gguf');
  await writeGgufAdapter(path, source.config, adapter, `${nameOf(job)} adapter`);
  return { path, type: 'adapter', check: await checkAdapter(input, path, directory) };
}

/** On the base's own GGUF where it is one, else on one of half floats that is made for it. */
async function checkAdapter({ job, source, adapter, tokenizer, onProgress }: ExportInput, lora: string, directory: string): Promise<ParityCheck> {
  if (job.llamaCpp === undefined) return notChecked(notInstalled);
  if (job.prompts.length === 0) return notChecked('the run has no prompts');
  const own = (await readdir(job.modelDirectory)).find((name) => name.endsWith('.gguf'));
  const base = own === undefined ? join(directory, '.base.gguf') : join(job.modelDirectory, own);
  try {
    if (own === undefined) {
      await writeGgufModel(base, { source, tokenizer, name: 'base' }, 'f16', (done, total) => onProgress('writing the base as GGUF', done, total));
    }
    return await withLlamaCpp(job, source, base, async (model) => {
      const questions = await askLlamaCpp(model, job.prompts, source.config.eosTokenIds);
      const logits = await engineLogits(source, adapter, questions, (done, total) => onProgress('reading the answers of llama.cpp', done, total));
      return checkParity(model, 'adapter', questions, logits, tokenizer.bosTokenId);
    }, lora);
  } finally {
    if (own === undefined) await rm(base, { force: true });
  }
}

const nameOf = ({ model }: MergeJob): string => `${baseReference(model).name.replace(/\/+$/, '').split('/').at(-1)} tuned`;

/** Works with a GGUF in llama.cpp. A file that it does not load is a check that failed to happen, and is told as such. */
async function withLlamaCpp<T>({ llamaCpp, prompts }: MergeJob, { config }: WeightSource, path: string, work: (model: LlamaCppModel) => Promise<T>, lora?: string): Promise<T | Extract<ParityCheck, { state: 'not checked' }>> {
  let model: LlamaCppModel;
  try {
    const longest = Math.max(...prompts.map(({ promptIds }) => promptIds.length));
    model = await openLlamaCpp(llamaCpp!, path, { vocabSize: config.vocabSize, contextSize: longest + answerTokens, lora });
  } catch (err) {
    const reason = `llama.cpp did not load ${basename(path)}: ${(err as Error).message}`;
    log('warn', reason);
    return { state: 'not checked', reason };
  }
  try {
    return await work(model);
  } finally {
    await model.dispose();
  }
}
