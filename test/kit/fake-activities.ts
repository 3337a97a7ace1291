import type { ArtifactRef, NamedArtifact } from '../../contracts/artifact.js';
import type { FineTuneInput } from '../../contracts/fine-tune-config.js';
import type { StageActivities, StageName, StageRequest } from '../../contracts/pipeline.js';
import type { EvaluateOutput, TokenReport } from '../../contracts/stages.js';
import { someConfig, someModel } from './trainer-job.js';

/** What a user would write. */
export const someInput = (change: Partial<FineTuneInput> = {}): FineTuneInput => ({
  name: 'test', model: { uri: 'file:model' }, dataset: { uri: 'file:rows.jsonl' },
  format: { instruction: 'Describe {product}', response: '{description}' }, ...change,
});

const artifact = (name: string): ArtifactRef => ({
  uri: `file:///store/${name}`, sha256: Buffer.from(name).toString('hex').padEnd(64, '0').slice(0, 64), bytes: 1, mediaType: 'text/plain',
});
const named = (name: string): NamedArtifact => ({ name, ...artifact(name) });

const evaluated = (evalLoss: number): EvaluateOutput => ({
  metrics: { evalLoss, perplexity: Math.exp(evalLoss), evalTokens: 100, rougeL: 0.1, meanTokens: 20, repetition: 0, stopRate: 0.5 },
  answers: artifact(`answers-${evalLoss}`),
  backend: 'fake',
});

const tokens: TokenReport = { rows: 4, tokens: 40, trainedTokens: 20, truncated: 0, longest: 12, lengths: { edges: [0, 20], counts: [4] } };

/** Outputs of the stages, the same every time. */
const outputs = {
  ingest: {
    columns: ['product', 'description'], train: artifact('train'), test: artifact('test'),
    report: { read: 5, dropped: { empty: 0, duplicate: 0, unsampled: 0, leaked: 0 }, kept: { leaked: 0 }, train: 4, test: 1, lengths: { edges: [0, 9], counts: [5] } },
  },
  format: {
    train: artifact('train-tokens'), test: artifact('test-tokens'), prompts: artifact('prompts'), preview: artifact('preview'),
    report: { train: tokens, test: tokens },
  },
  baseline: evaluated(3),
  train: {
    adapter: [named('adapter_config.json'), named('adapter_model.safetensors')],
    history: artifact('history'),
    summary: { steps: 3, epochs: 1, tokens: 120, trainLoss: 2.5, evalLoss: 2, trainableParameters: 8, totalParameters: 100, backend: 'fake' },
  },
  merge: {
    merged: [named('config.json'), named('model.safetensors')],
    kept: { onto: 'original' as const, reason: 'it is the only way' },
    measured: { tokens: 40, countedTokens: 20, unmergedLoss: 2, ways: [{ onto: 'original' as const, evalLoss: 2, kl: 0, agreement: 1 }] },
    gguf: [{ type: 'f16' as const, file: named('model-f16.gguf'), check: { state: 'not checked' as const, reason: 'no llama.cpp' } }],
  },
  evaluate: evaluated(2),
  report: { html: artifact('report.html'), markdown: artifact('report.md'), cards: { adapter: artifact('adapter-card'), merged: artifact('merged-card') } },
  publish: { manifest: artifact('manifest.json'), latest: 'file:///published/test/latest.json' },
};

export interface Call {
  stage: StageName;
  request: StageRequest<unknown>;
}

/**
 * Activities that do nothing: each returns its stage's output. `calls` tells which were called, in order, and with what.
 * @param instead takes the place of some
 */
export function fakeActivities(instead: Partial<StageActivities> = {}): { activities: StageActivities; calls: Call[] } {
  const calls: Call[] = [];
  const outcome = <T>(stage: StageName, output: T) => ({ key: stage.padEnd(64, '0'), reused: false, seconds: 1, output });
  const record = <F extends (request: StageRequest<never>) => unknown>(stage: StageName, activity: F) =>
    ((request: StageRequest<never>) => {
      calls.push({ stage, request });
      return activity(request);
    }) as F;

  const validate: StageActivities['validate'] = ({ input }) =>
    Promise.resolve(outcome('validate', {
      config: someConfig(input), model: someModel, dataset: artifact('rows'),
      requiredColumns: ['product', 'description'], promptColumns: ['product'],
    }));
  const plain = Object.fromEntries(
    Object.entries(outputs).map(([stage, output]) => [stage, () => Promise.resolve(outcome(stage as StageName, output))]),
  ) as unknown as Omit<StageActivities, 'validate'>;
  const all: StageActivities = { validate, ...plain, ...instead };
  const activities = Object.fromEntries(
    (Object.keys(all) as StageName[]).map((stage) => [stage, record(stage, all[stage] as never)]),
  ) as unknown as StageActivities;
  return { activities, calls };
}
