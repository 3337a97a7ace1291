import { stringify } from 'yaml';
import { baseReference, hubPin } from '../../contracts/hub-pin.js';
import { createFormatter, requiredColumns } from '../../engine/data/template.js';
import { compare } from './comparison.js';
import { evidence, rowFacts, tokenFacts, trainingFacts, type Fact } from './facts.js';
import { cell, fence, inline, table } from './markdown-text.js';
import { ggufMeaning, ggufTable, mergeMeaning, mergeTable, mergeVerdict } from './merge-tables.js';
import type { ReportData } from './report-data.js';
import { verdict } from './verdict.js';

/**
 * README.md of an adapter's or a merged model's directory: a model card with the metadata that the hub reads
 * (https://huggingface.co/docs/hub/model-cards). No row of the data is in it.
 */
export function renderModelCard(data: ReportData, what: 'adapter' | 'merged'): string {
  const { config, merge, baseline, evaluate } = data;
  const figures = compare(baseline.metrics, evaluate.metrics);
  const [waysTable, filesTable] = [mergeTable(merge), ggufTable(merge)];
  return `---\n${stringify(metadata(data, what), { lineWidth: 0 })}---\n\n${[
    `# ${config.name}`,
    `${what === 'adapter' ? 'A LoRA adapter for' : 'A fine-tuned version of'} ${baseLink(data)}, made with Temper. ${verdict(baseline.metrics, evaluate.metrics).sentence}`,
    '## Use',
    ...usage(data, what),
    '## Prompt',
    ...promptFormat(data),
    '## Results',
    table(['Figure', 'Base', 'Tuned', 'Change'], figures.map(({ name, base, tuned, change }) => [name, base, tuned, change])),
    evidence(data),
    ...(waysTable ? ['### Merge', ...texts(mergeVerdict(merge)), table(waysTable.head, waysTable.rows), ...texts(mergeMeaning(merge))] : []),
    ...(filesTable ? ['### GGUF', table(filesTable.head, filesTable.rows), ...texts(ggufMeaning(merge)), ...(merge.notes ?? [])] : []),
    '## Data',
    facts([...rowFacts(data), ...tokenFacts(data)]),
    '## Training',
    facts(trainingFacts(data)),
    table(['Hyperparameter', 'Value'], hyperparameters(data)),
    '## Limits',
    'What the base model gets wrong or biased, this one does too; it was tuned for one form of prompt and measured on held-out rows of the same data, not beyond them.',
  ].join('\n\n')}\n`;
}

const texts = (text: string | undefined): string[] => (text === undefined ? [] : [text]);

/** The keys that the hub knows, in its order; what is not known is left out. */
function metadata(data: ReportData, what: 'adapter' | 'merged'): Record<string, unknown> {
  const { config, model, evaluate, merge } = data;
  const base = hubBase(data);
  const datasets = hubDatasets(data);
  const { evalLoss, perplexity, rougeL } = evaluate.metrics;
  const metric = (type: string, name: string, value: number | null) => (value === null ? [] : [{ type, name, value: Number(value.toPrecision(5)) }]);
  return {
    ...(base !== undefined && { base_model: base, base_model_relation: what === 'adapter' ? 'adapter' : 'finetune' }),
    library_name: what === 'adapter' ? 'peft' : 'transformers',
    pipeline_tag: 'text-generation',
    ...(model.license !== undefined && { license: model.license }),
    ...(model.languages && { language: model.languages }),
    ...(datasets.length > 0 && { datasets }),
    tags: ['temper', 'lora', ...(config.base.dtype === 'nf4' ? ['qlora'] : []), ...(what === 'merged' && merge.gguf ? ['gguf'] : [])],
    'model-index': [{
      name: config.name,
      results: [{
        task: { type: 'text-generation', name: 'Text generation' },
        dataset: { type: datasets[0] ?? 'custom', name: describeDataset(data), split: 'test' },
        metrics: [...metric('loss', 'Held-out loss (nats per token)', evalLoss), ...metric('perplexity', 'Held-out perplexity', perplexity), ...metric('rouge', 'ROUGE-L', rougeL)],
      }],
    }],
  };
}

/** The base's name on the hub, where it has one. */
function hubBase({ model }: ReportData): string | undefined {
  const { name, revision } = baseReference(model);
  return revision !== undefined || model.hubName !== undefined ? name : undefined;
}

const hubDatasets = ({ dataset }: ReportData): string[] =>
  [...new Set([dataset ?? []].flat().flatMap(({ uri }) => hubPin(uri)?.repository.replace('hf://datasets/', '') ?? []))];

const describeDataset = ({ config }: ReportData): string => [config.dataset.uri].flat().map((uri) => uri.split('/').at(-1)).join(', ');

function baseLink(data: ReportData): string {
  const base = hubBase(data);
  return base === undefined ? inline(data.model.uri) : `[${cell(base)}](https://huggingface.co/${base})`;
}

function usage(data: ReportData, what: 'adapter' | 'merged'): string[] {
  const { merge, config } = data;
  const generate = 'inputs = tokenizer(prompt, return_tensors="pt")\nprint(tokenizer.decode(model.generate(**inputs, max_new_tokens=256)[0]))';
  const stop = config.format.endMarker.trim() === '' ? '' : `\n# answers end with ${JSON.stringify(config.format.endMarker.trim())}`;
  if (what === 'adapter') {
    const base = hubBase(data) ?? 'PATH/TO/THE/BASE';
    const lora = merge.gguf?.find(({ type }) => type === 'adapter');
    return [
      fence(`from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained("${base}")\nmodel = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("${base}"), "PATH/TO/THIS/DIRECTORY")\n${generate}${stop}`, 'python'),
      ...(lora ? [`With llama.cpp, on a GGUF of the base:`, fence(`llama-cli -m BASE.gguf --lora ${lora.file.name} -no-cnv -f prompt.txt`, 'sh')] : []),
    ];
  }
  const file = merge.gguf?.find(({ type }) => type !== 'adapter')?.file.name;
  return [
    fence(`from transformers import AutoModelForCausalLM, AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained("PATH/TO/THIS/DIRECTORY")\nmodel = AutoModelForCausalLM.from_pretrained("PATH/TO/THIS/DIRECTORY")\n${generate}${stop}`, 'python'),
    ...(file === undefined ? [] : ['With llama.cpp:', fence(`llama-cli -m ${file} -no-cnv -f prompt.txt`, 'sh')]),
  ];
}

/** The prompt with its placeholders. */
function promptFormat({ config: { format } }: ReportData): string[] {
  const end = format.endMarker === '' ? 'the end token' : `${inline(format.endMarker.trim())} and the end token`;
  if (format.template === 'chat') {
    return ['The model\'s own chat template, with this as the user\'s turn:', fence(format.instruction ?? ''), 'Answers end where the assistant\'s turn ends.'];
  }
  const row = Object.fromEntries(requiredColumns(format).map(({ column }) => [column, `{${column}}`]));
  const noChat = { chatTemplate: undefined, renderChat: () => '' };
  return [fence(createFormatter(format, noChat).prompt(row)), `The answer follows: ${inline(format.response)}, ended by ${end}.`];
}

function hyperparameters({ config: { train, lora, format, base } }: ReportData): string[][] {
  const values: [string, unknown][] = [
    ['learning rate', train.learningRate], ['schedule', train.schedule], ['warm-up ratio', train.warmupRatio], ['rows a micro-batch', train.batchSize],
    ['accumulation', train.accumulation], ['rows a step', train.batchSize * train.accumulation], ['epochs', train.steps === undefined ? (train.epochs ?? 1) : undefined], ['steps', train.steps],
    ['optimizer', `AdamW, betas ${train.beta1} and ${train.beta2}, epsilon ${train.epsilon}`], ['weight decay', train.weightDecay], ['gradient norm at most', train.maxGradNorm],
    ['rank', lora.rank], ['alpha', lora.alpha], ['dropout', lora.dropout], ['longest row in tokens', format.maxLength], ['base while training', base.dtype], ['seed', train.seed],
  ];
  return values.flatMap(([name, value]) => (value === undefined ? [] : [[name, typeof value === 'object' ? JSON.stringify(value) : String(value)]]));
}

const facts = (list: readonly Fact[]): string => list.map(([name, value]) => `- ${name}: ${cell(value)}`).join('\n');
