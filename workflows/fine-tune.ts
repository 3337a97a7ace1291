import { ActivityCancellationType, proxyActivities, workflowInfo } from '@temporalio/workflow';
import type { ArtifactRef, NamedArtifact } from '../contracts/artifact.js';
import type { FineTuneInput } from '../contracts/fine-tune-config.js';
import { failureTypes, type FineTuneResult, type StageActivities } from '../contracts/pipeline.js';
import { gpuTaskQueue } from '../contracts/task-queues.js';
import { Run } from './run.js';
import { trainWithinMemory } from './train-within-memory.js';

/** Infrastructure may be away for hours; wrong input and what the workflow itself handles (`nonRetryable`) are not retried. */
const retry = { initialInterval: '2s', backoffCoefficient: 2, maximumInterval: '5m', nonRetryableErrorTypes: [failureTypes.invalidInput] };

/** What holds for every stage. A heartbeat comes every 5 s, so a lost worker is noticed in 30 s. */
const common = { retry, heartbeatTimeout: '30s', cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED };

/**
 * Bad input is told within seconds; what takes long is a model that has to be fetched, which each attempt goes on with. When the
 * trouble is out of the workers' reach, it is told after hours, not days.
 */
const validation = proxyActivities<StageActivities>({
  ...common, startToCloseTimeout: '2h', scheduleToCloseTimeout: '6h',
});
/** Stages without an accelerator. */
const cpu = proxyActivities<StageActivities>({
  ...common, startToCloseTimeout: '6h', scheduleToCloseTimeout: '24h',
});
/** Stages that run the engine; they may wait long for a free worker. A training's attempts go on from its checkpoints. */
const gpu = () =>
  proxyActivities<StageActivities>({
    ...common, taskQueue: gpuTaskQueue(workflowInfo().taskQueue), startToCloseTimeout: '7d', scheduleToCloseTimeout: '14d',
  });

/**
 * Fine-tunes a model: from a configuration to an adapter, a merged model and a report, published if a place is given.
 * Every stage returns an earlier run's result when its input is the same; `reuse: false` turns that off.
 * Query `status`; signal `progress` (from the stages). Cancelling stops cleanly: training leaves a checkpoint, from which
 * the next run with the same input goes on.
 */
export async function fineTune(input: FineTuneInput): Promise<FineTuneResult> {
  const run = new Run((input as FineTuneInput | null)?.reuse === false); // whatever was sent, it is validate that refuses it
  const { validate } = validation;
  const { ingest, format, report, publish } = cpu;
  const { baseline, train, merge, evaluate } = gpu();

  const { config, model, startAdapter, dataset, requiredColumns, promptColumns } = await run.stage('validate', validate, input);
  const { base, lora } = config;

  const data = await run.stage('ingest', ingest, { dataset: config.dataset, file: dataset, requiredColumns, promptColumns });

  const tokens = await run.stage('format', format, {
    model, format: config.format, loss: config.train.loss, evaluate: config.evaluate,
    columns: data.columns, train: data.train, test: data.test,
  });

  const questions = { model, base: config.evaluate.base ?? base, test: tokens.test, prompts: tokens.prompts, maxNewTokens: config.evaluate.maxNewTokens };
  const before = await run.stage('baseline', baseline, { ...questions, adapter: null });

  const { trained, batch } = await trainWithinMemory(run, train, {
    model, base, lora, startAdapter, train: config.train, trainTokens: tokens.train, testTokens: tokens.test,
  });
  run.made('adapter', weights(trained.adapter));

  const mergedModel = await run.stage('merge', merge, {
    model, base, adapter: trained.adapter, test: tokens.test, prompts: tokens.prompts, merge: config.merge, export: config.export,
  });
  const { gguf, notes } = mergedModel;
  notes?.forEach((note) => run.note(note));
  run.made('merged', weights(mergedModel.merged));
  gguf?.forEach(({ type, file }) => run.made(`gguf ${type}`, file));

  const after = await run.stage('evaluate', evaluate, { ...questions, adapter: trained.adapter });

  const pages = await run.stage('report', report, {
    config: { ...config, train: { ...config.train, ...batch } }, model, dataset, ingest: data, format: tokens, baseline: before, train: trained, merge: mergedModel, evaluate: after,
    timings: run.timings(),
  });
  run.made('report', pages.html);

  const adapter = withCard(trained.adapter, pages.cards?.adapter);
  const merged = withCard(mergedModel.merged, pages.cards?.merged);
  const published = config.publish
    ? await run.stage('publish', publish, {
        ...config.publish,
        name: config.name,
        files: [
          ...under('adapter', [...adapter, { ...trained.history, name: 'trainer_state.json' }]),
          ...under('merged', merged),
          ...under('gguf', gguf?.map(({ file }) => file) ?? []),
          { ...pages.html, name: 'report.html' },
          { ...pages.markdown, name: 'report.md' },
        ],
      })
    : run.skip('publish');
  if (published?.manifest) run.made('manifest', published.manifest);
  if (published?.hub) run.made('hub', { uri: published.hub.url });
  run.finish();

  return {
    name: config.name,
    stages: run.outcomes(),
    backend: trained.summary.backend,
    baseline: before.metrics,
    tuned: after.metrics,
    train: { ...trained.summary, ...batch },
    merge: { kept: mergedModel.kept, measured: mergedModel.measured },
    notes: run.notes(),
    artifacts: {
      adapter, merged, gguf, report: pages,
      baselineAnswers: before.answers, tunedAnswers: after.answers,
      ...published,
    },
  };
}

/** The file that stands for a directory of weights. */
const weights = (files: NamedArtifact[]): NamedArtifact => files.find(({ name }) => name.endsWith('.safetensors')) ?? files[0];

/** A directory with the model card as its README.md. */
const withCard = (files: NamedArtifact[], card: ArtifactRef | undefined): NamedArtifact[] =>
  card === undefined ? files : [...files.filter(({ name }) => name !== 'README.md'), { ...card, name: 'README.md' }];

const under = (folder: string, files: NamedArtifact[]): NamedArtifact[] => files.map((file) => ({ ...file, name: `${folder}/${file.name}` }));
