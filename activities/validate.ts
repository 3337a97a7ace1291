import { z } from 'zod';
import type { NamedArtifact } from '../contracts/artifact.js';
import { checkConfig } from '../contracts/check-config.js';
import { InvalidInputError } from '../contracts/errors.js';
import { fineTuneConfigSchema, type FineTuneConfig } from '../contracts/fine-tune-config.js';
import type { Problem } from '../contracts/pipeline.js';
import { validateOutputSchema, type ModelRef, type ValidateOutput } from '../contracts/stages.js';
import { promptColumns, promptProblems, requiredColumns, templateProblems } from '../engine/data/template.js';
import { EngineError } from '../engine/errors.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import { describeModel } from '../engine/formats/open-model.js';
import { openTokenizer } from '../engine/formats/open-tokenizer.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';
import { openStore } from '../store/open-store.js';
import { datasetProblems } from './dataset-problems.js';
import { exportProblems } from './export-problems.js';
import { modelProblems } from './model-problems.js';
import { checkHub } from './publish-to-hub.js';
import { locateDataset } from './sources/datasets.js';
import { hubSettings } from './sources/hub/hub-settings.js';
import { modelOrigin } from './sources/model-origin.js';
import { locateAdapter } from './sources/adapters.js';
import { locateModel, type LocalModel } from './sources/models.js';
import type { SourceProgress, SourceSettings } from './sources/source-settings.js';
import { isBadSource } from './sources/source-uri.js';
import { defineStage, type Stage } from './stage.js';
import { adapterProblems, ofAdapter, readStartAdapter, takeOptions } from './start-adapter.js';

/**
 * Checks a run's input before anything is spent on it, fills in the defaults and pins model, dataset and the adapter it starts from by digest.
 *
 * Everything that can be wrong is looked for, and all of it is reported at once. Only headers are read, and nothing is
 * downloaded for an input that is already known to be refused. Leaves nothing behind but cached files.
 */
export const createValidateStage = (settings: SourceSettings): Stage<unknown, ValidateOutput> => defineStage<unknown, ValidateOutput>({
  name: 'validate',
  version: 1,
  input: z.unknown(),
  output: validateOutputSchema,
  reusable: false, // model and dataset may have changed
  run: (input, { progress, signal }) => validate(input, settings, (...report) => {
    signal.throwIfAborted(); // ends a download
    progress(...report);
  }),
});

/** @throws InvalidInputError with every problem found; StoreError when storage is out of reach */
export async function validate(input: unknown, settings: SourceSettings, progress: SourceProgress = () => {}): Promise<ValidateOutput> {
  const parsed = parse(input);
  const { mistakes } = parsed;
  let { config } = parsed;
  const problems: Problem[] = promptProblems(config.format, config.evaluate.prompts);

  const attempt = <T>(path: string, work: () => Promise<T>): Promise<T | undefined> =>
    work().catch((error: unknown) => {
      problems.push(...problemsOf(path, error));
      return undefined;
    });
  const { from } = config.lora;
  const [model, dataset, adapter, published] = await Promise.all([
    attempt('model.uri', () => locateModel(config.model.uri, settings)),
    attempt('dataset.uri', () => locateDataset(config.dataset, settings)),
    attempt('lora.from', async () => (from === undefined ? undefined : locateAdapter(from, settings))),
    attempt('publish.uri', () => checkPublish(config, settings)),
    attempt('publish.hub', async () => config.publish?.hub && checkHub(config.publish.hub, settings.hub ?? hubSettings())),
  ]);

  // A large download for an input that is refused anyway would be a waste; what is here already is looked at in any case.
  const worthFetching = problems.length + mistakes.length === 0;
  const localModel = model && (worthFetching || !model.remote) ? await attempt('model.uri', () => model.fetch(progress)) : undefined;
  const described = localModel && (await attempt('model.uri', () => describe(localModel)));
  const localAdapter = adapter && (worthFetching || !adapter.remote) ? await attempt('lora.from', () => adapter.fetch(progress)) : undefined;
  const start = localAdapter && (await attempt('lora.from', () => readStartAdapter(localAdapter.path)));
  const given = (input as { lora?: unknown }).lora;
  if (start) {
    const taken = takeOptions(config.lora, start, given);
    problems.push(...taken.problems);
    config = { ...config, lora: taken.lora };
  }
  if (described) problems.push(...(start ? ofAdapter(modelProblems(config, described.architecture), given) : modelProblems(config, described.architecture)), ...(await exportProblems(config, described)));
  if (described && start && !problems.some(({ path }) => path.startsWith('lora.'))) problems.push(...adapterProblems(start, described.architecture));
  const files = dataset && (worthFetching || !dataset.remote) ? await attempt('dataset.uri', () => dataset.fetch(progress)) : undefined;
  problems.push(...(files
    ? ((await attempt('dataset.uri', () => datasetProblems(config, files, described?.tokenizer))) ?? [])
    : templateProblems(config.format, requiredColumns(config.format).map(({ column }) => column), described?.tokenizer)));
  refuse([...mistakes, ...problems.filter(({ path }) => !mistakes.some((mistake) => concerns(mistake.path, path)))]);

  return {
    config: published === undefined ? config : { ...config, publish: { ...config.publish, uri: published } },
    model: { ...modelRef(config, described!.architecture, await localModel!.pin(progress)), ...(await modelOrigin(config.model.uri, localModel!)) },
    ...(localAdapter ? { startAdapter: await localAdapter.pin(progress) } : {}),
    dataset: files!.length === 1 ? files![0].ref : files!.map(({ ref }) => ref),
    requiredColumns: [...new Set(requiredColumns(config.format).map(({ column }) => column))],
    promptColumns: promptColumns(config.format),
  };
}

/**
 * The configuration, with what is mistaken in it left out, so that the rest can be checked as well.
 * @throws InvalidInputError when it cannot be read without the mistaken parts
 */
function parse(input: unknown): { config: FineTuneConfig; mistakes: readonly Problem[] } {
  try {
    return { config: checkConfig(input), mistakes: [] };
  } catch (error) {
    if (!(error instanceof InvalidInputError)) throw error;
    const repaired = fineTuneConfigSchema.safeParse(withoutMistakes(input));
    if (!repaired.success) throw error;
    return { config: repaired.data, mistakes: error.problems };
  }
}

function withoutMistakes(input: unknown): unknown {
  const copy = structuredClone(input);
  for (const issue of fineTuneConfigSchema.safeParse(input).error?.issues ?? []) {
    const paths = issue.code === 'unrecognized_keys' ? issue.keys.map((key) => [...issue.path, key]) : [issue.path];
    for (const path of paths) {
      const inList = path.findIndex((part) => typeof part === 'number');
      remove(copy, inList === -1 ? path : path.slice(0, inList));
    }
  }
  return copy;
}

function remove(value: unknown, path: readonly PropertyKey[]): void {
  const parent = path.slice(0, -1).reduce<unknown>((inner, part) => (inner as Record<PropertyKey, unknown> | undefined)?.[part], value);
  if (typeof parent === 'object' && parent !== null && path.length > 0) delete (parent as Record<PropertyKey, unknown>)[path.at(-1)!];
}

/** Whether a problem at `path` may come from leaving out what is at `mistaken`: one path is the other's beginning. */
const concerns = (mistaken: string, path: string): boolean => `${path}.`.startsWith(`${mistaken.replace(/\[.*/, '')}.`) || mistaken.startsWith(path);

function refuse(problems: readonly Problem[]): void {
  if (problems.length > 0) throw new InvalidInputError(problems);
}

/** An error as problems of the input, or thrown on when it is none: an outage is not the user's mistake. */
function problemsOf(path: string, error: unknown): readonly Problem[] {
  if (error instanceof InvalidInputError) return error.problems;
  if (isBadSource(error) || (error instanceof EngineError && error.failure === 'invalidInput')) return [{ path, message: error.message }];
  throw error;
}

/** The destination as an absolute URI, found to be writable; undefined when nothing is published. */
async function checkPublish({ publish }: FineTuneConfig, settings: SourceSettings): Promise<string | undefined> {
  if (publish?.uri === undefined) return undefined;
  const target = openStore(publish.uri, { base: settings.dataRoots[0], s3: settings.s3 });
  await target.check();
  return target.root;
}

type Architecture = LlamaConfig & { parameters: number; format: ModelRef['format'] };

/** Reads the model's headers and its tokenizer. */
async function describe({ path }: LocalModel): Promise<{ architecture: Architecture; tokenizer: Tokenizer }> {
  return { architecture: await describeModel(path), tokenizer: await openTokenizer(path) };
}

function modelRef(config: FineTuneConfig, model: Architecture, files: NamedArtifact[]): ModelRef {
  const { layers, hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize, contextLength, parameters } = model;
  return {
    uri: config.model.uri,
    format: model.format,
    files,
    architecture: { name: model.architecture, layers, hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize, contextLength, parameters },
  };
}
