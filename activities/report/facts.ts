import { describeOrigin } from '../../contracts/hub-pin.js';
import type { BaseConfig, TrainConfig } from '../../contracts/fine-tune-config.js';
import { describeTargets } from '../../engine/formats/lora-modules.js';
import { count, counted, duration, percent } from './numbers.js';
import type { ReportData } from './report-data.js';

/** Name and value, as a report lists them. */
export type Fact = readonly [name: string, value: string];

export function trainingFacts({ config, model, train, timings, format, ingest }: ReportData): Fact[] {
  const { base } = config;
  const { summary } = train;
  const seconds = timings.find(({ name }) => name === 'train')?.seconds;
  const { batchSize, accumulation } = config.train;
  return [
    ['Base model', describeOrigin(model.uri, model.files)],
    ['Trainable parameters', `${count(summary.trainableParameters)} of ${count(summary.totalParameters)} (${percent(summary.trainableParameters / summary.totalParameters, 3)})`],
    ['Adapter', adapter(config)],
    ['Frozen base', storage(base)],
    ['Trained on', `${counted(ingest.report.train, 'row')}, ${counted(format.report.train.trainedTokens, 'token')} of which the loss counts (${config.train.loss === 'response' ? 'responses only' : 'prompts and responses'})`],
    ['Work done', `${counted(summary.steps, 'step')} of ${count(batchSize * accumulation)} rows (${batchSize} × ${accumulation}), ${counted(Number(summary.epochs.toFixed(2)), 'epoch')}, ${counted(summary.tokens, 'token')}${endedEarly(config.train, summary) ? '; ended early, as the held-out loss fell no more' : ''}`],
    ['Learning rate', learningRate(config.train)],
    ...(config.train.keep === 'best' ? [['Adapter kept', `that of step ${count(summary.keptStep)}, which had the lowest held-out loss`] satisfies Fact] : []),
    ['Mean training loss', `${summary.trainLoss.toFixed(3)} nats per token`],
    ['Time', seconds === undefined ? 'not recorded' : `${duration(seconds)}, ${count(Math.round(summary.tokens / Math.max(seconds, 0.001)))} tokens a second with start and checkpoints`],
    ['Backend', summary.backend],
  ];
}

/** Whether early stopping has left out a part of what was asked for. */
const endedEarly = ({ earlyStopping, steps, epochs = 1 }: TrainConfig, done: ReportData['train']['summary']): boolean =>
  earlyStopping !== undefined && (steps === undefined ? done.epochs < epochs - 1e-6 : done.steps < steps);

const storage = (base: BaseConfig): string => (base.dtype === 'nf4' ? `NF4${base.doubleQuant ? ', double-quantised' : ''}` : base.dtype);

function adapter({ lora, train }: ReportData['config']): string {
  const { rank, alpha, useDora, useRsLora, rankPattern, alphaPattern, excludeModules, layersToTransform, bias, modulesToSave, loraPlusRatio, from } = lora;
  const patterns = (what: string, values: Record<string, number>): string[] => Object.entries(values).map(([pattern, value]) => `${what} ${value} for ${pattern}`);
  const scale = `${alpha}/${useRsLora ? '√' : ''}${rank} = ${Number((alpha / (useRsLora ? Math.sqrt(rank) : rank)).toFixed(3))}`;
  return [
    `${useDora ? 'DoRA' : 'LoRA'} of rank ${rank}`, `scaled by ${scale}`, ...patterns('rank', rankPattern), ...patterns('alpha', alphaPattern), `dropout ${lora.dropout}`,
    `on ${describeTargets(lora)}${excludeModules === undefined ? '' : ` but ${[excludeModules].flat().join(', ')}`}${layersToTransform ? ` of layers ${layersToTransform.join(', ')}` : ''}`,
    ...(bias === 'none' ? [] : [bias === 'all' ? 'with all biases' : 'with the biases of these']),
    ...(modulesToSave.length > 0 ? [`with ${modulesToSave.join(' and ')} in full`] : []),
    ...(loraPlusRatio === undefined ? [] : [`LoRA+ of ratio ${loraPlusRatio}`]),
    ...(train.neftuneNoiseAlpha === undefined ? [] : [`NEFTune noise of alpha ${train.neftuneNoiseAlpha}`]),
    ...(from === undefined ? [] : [`from ${from}`]),
  ].join(', ');
}

function learningRate({ learningRate, schedule, warmupRatio, minLearningRateRatio, decayRatio = 0.2 }: ReportData['config']['train']): string {
  const end = minLearningRateRatio === undefined ? '' : ` down to ${percent(minLearningRateRatio)} of it`;
  const decay = schedule === 'warmup_stable_decay' ? `, decay over the last ${percent(decayRatio)} of the steps` : '';
  return `${learningRate} at its peak, ${schedule}${end}, warm-up ${percent(warmupRatio)}${decay}`;
}

/** How many rows were read, and where each of them went. */
export function rowFacts({ config, dataset, ingest: { report } }: ReportData): Fact[] {
  const { read, dropped, kept, train, test } = report;
  return [
    ['Dataset', describeOrigin(config.dataset.uri, [dataset ?? []].flat())],
    ['Rows read', count(read)],
    ['Left out: not in the sample', count(dropped.unsampled)],
    ['Dropped: a needed column is empty', count(dropped.empty)],
    ['Dropped: exact duplicate', count(dropped.duplicate)],
    ['Dropped from train: its question is in test', count(dropped.leaked)],
    ...(kept.leaked > 0 ? [['Kept in train although its question is in test', count(kept.leaked)] satisfies Fact] : []),
    ['Train', count(train)],
    ['Test', count(test)],
  ];
}

export function tokenFacts({ format: { report }, config }: ReportData): Fact[] {
  return (['train', 'test'] as const).map((split): Fact => {
    const { rows, tokens, trainedTokens, truncated, longest } = report[split];
    return [
      split === 'train' ? 'Train tokens' : 'Test tokens',
      `${count(tokens)} in ${counted(rows, 'row')}, ${count(trainedTokens)} counted by the loss, longest row ${count(longest)}, ${truncated === 0 ? 'none' : count(truncated)} truncated at ${config.format.maxLength}`,
    ];
  });
}

/** What the figures rest on. */
export function evidence({ config, evaluate, ingest, questions }: ReportData): string {
  const [trainedOn, measuredOn] = [config.base, config.evaluate.base ?? config.base].map(storage);
  const referenced = questions.filter(({ reference }) => reference !== null).length;
  const overlap = referenced > 0 ? `ROUGE-L on the ${counted(referenced, 'answer')} with a reference` : 'no answer has a reference';
  return `Loss is measured on ${counted(evaluate.metrics.evalTokens, 'token')} of ${counted(ingest.report.test, 'held-out row')}; ${overlap}, the other figures on ${counted(questions.length, 'greedy answer')} in the training format.`
    + (measuredOn === trainedOn ? '' : ` For these figures the base is stored as ${measuredOn}; training and merging have it as ${trainedOn}.`)
    + (questions.length < 30 ? ' So few answers show a tendency, no more.' : '');
}
