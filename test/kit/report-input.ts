import { fineTuneConfigSchema } from '../../contracts/fine-tune-config.js';
import type { Answer, Metrics, ReportInput, SamplePreview } from '../../contracts/stages.js';
import type { ArtifactStore } from '../../store/artifact-store.js';

const instruction = 'Create a detailed description for the following product: {product}, belonging to category: {category}';
const alpaca = (product: string, category: string) =>
  `Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n${
    instruction.replace('{product}', product).replace('{category}', category)}\n\n### Response:\n`;

const items = [
  { product: 'Corelogic Smooth Mouse', category: 'Optical Mouse', reference: null,
    own: 'The Corelogic Smooth Mouse is a product of Corelogic. It is an optical mouse. It is a mouse. It is an optical mouse. It is a mouse. It is an optical mouse.',
    base: '### Instruction:\nCreate a detailed description for the following product: Corelogic Smooth Mouse\n\n### Response:\nThe Corelogic Smooth Mouse is a mouse',
    tuned: 'a hand-operated electronic device that controls the coordinates of a cursor on a screen' },
  { product: 'lightspeed <b>vacuum</b>', category: "cleaner & 'sweeper'", reference: 'an electrical home appliance that cleans by suction',
    own: 'I can help with that! Here is a description of your vacuum cleaner: it is a very versatile tool for the modern home.',
    base: 'The vacuum cleaner is a vacuum cleaner that is a vacuum cleaner that is a vacuum cleaner', tuned: 'an electrical appliance that cleans floors by suction' },
  { product: 'abacus', category: 'calculator', reference: 'a calculator that performs arithmetic functions by manually sliding counters on rods or in grooves',
    own: 'An abacus is a counting frame.', base: 'Abacus is the name of a company that makes calculators.', tuned: '' },
];

const baseline: Metrics = { evalLoss: 3.8456, perplexity: 46.79, evalTokens: 5213, rougeL: 0.0873, meanTokens: 57.5, repetition: 0.214, stopRate: 0.125 };
const tuned: Metrics = { evalLoss: 2.4178, perplexity: 11.22, evalTokens: 5213, rougeL: 0.2214, meanTokens: 15.2, repetition: 0.004, stopRate: 1 };

/** The input of a report on a run that never was, its artifacts in the store. Some of its texts try to be markup. */
export async function reportInput(store: ArtifactStore, change: { baseline?: Partial<Metrics>; tuned?: Partial<Metrics> } = {}): Promise<ReportInput> {
  const json = (value: unknown) => store.putBytes(Buffer.from(JSON.stringify(value)), 'application/json');
  const bytes = (length: number, fill: number) => store.putBytes(Buffer.alloc(length, fill), 'application/octet-stream');
  const named = async (name: string, length: number, fill: number) => ({ name, ...(await bytes(length, fill)) });
  const answer = (format: Answer['format'], text: string, stopped: boolean) => ({ product, category, reference }: (typeof items)[number]): Answer =>
    ({ format, prompt: alpaca(product, category), reference, text, tokens: Math.max(1, text.split(/\s+/).length), stopped });

  const steps = Array.from({ length: 128 }, (_, i) => ({
    step: i + 1, epoch: (i + 1) / 64, loss: 2.45 + 1.5 * Math.exp(-i / 18) + 0.14 * Math.sin(i * 2.7) * Math.cos(i), learning_rate: 2e-4 * (1 - i / 128), grad_norm: 0.5,
  }));
  const evals = [{ step: 64, epoch: 1, eval_loss: 2.5311, eval_tokens: 5213 }, { step: 128, epoch: 2, eval_loss: 2.4178, eval_tokens: 5213 }];
  const history = { log_history: [...steps, ...evals].sort((a, b) => a.step - b.step).concat({ step: 128, epoch: 2, train_loss: 2.71 } as never) };
  const preview: SamplePreview = {
    rendered: `${alpaca('anchor', 'hook')}a mechanical device\n### End`,
    tokens: [...(alpaca('anchor', 'hook').match(/\s?[^\s]+|\s/g) ?? []).map((text, i) => ({ id: 100 + i, text, trained: false })),
      ...['a', ' mechanical', ' device', ' that', ' prevents', ' a', ' vessel', ' from', ' moving', '\n', '###', ' End', '<|im_end|>'].map((text, i) => ({ id: 900 + i, text, trained: true }))],
  };
  const lengths = (peak: number, width: number) => ({ edges: Array.from({ length: 16 }, (_, i) => i * width), counts: Array.from({ length: 15 }, (_, i) => Math.round(900 * Math.exp(-(((i - peak) / 3) ** 2)))) });

  return {
    config: fineTuneConfigSchema.parse({
      name: 'wordnet-descriptions', model: { uri: 'smollm2-135m-instruct' },
      dataset: { uri: 'wordnet-artifacts', sample: { rows: 2000 }, split: { test: 0.05 }, leakage: 'drop' },
      format: { template: 'alpaca', instruction, response: '{description}', endMarker: '\n### End' }, train: { epochs: 2 },
      evaluate: { prompts: [{ product: 'Corelogic Smooth Mouse', category: 'Optical Mouse' }], testRows: 2 },
    }),
    model: {
      uri: 'smollm2-135m-instruct', format: 'gguf', files: [await named('SmolLM2-135M-Instruct.Q4_1.gguf', 98_765, 1)],
      architecture: { name: 'llama', layers: 30, hiddenSize: 576, intermediateSize: 1536, heads: 9, kvHeads: 3, headDim: 64, vocabSize: 49152, contextLength: 8192, parameters: 134_515_008 },
    },
    ingest: {
      columns: ['product', 'category', 'description'], train: await bytes(300_123, 2), test: await bytes(16_010, 3),
      report: { read: 11_605, dropped: { empty: 12, duplicate: 3, unsampled: 9_590, leaked: 41 }, kept: { leaked: 0 }, train: 1_859, test: 100, lengths: lengths(5, 20) },
    },
    format: {
      train: await bytes(512_345, 4), test: await bytes(27_000, 5), prompts: await json([]), preview: await json(preview),
      report: {
        train: { rows: 1_859, tokens: 123_456, trainedTokens: 34_567, truncated: 2, longest: 256, lengths: lengths(6, 10) },
        test: { rows: 100, tokens: 6_543, trainedTokens: 5_213, truncated: 0, longest: 120, lengths: lengths(6, 10) },
      },
    },
    baseline: {
      metrics: { ...baseline, ...change.baseline }, backend: 'tensorflow: libtensorflow 2.20.0 on 2 CPU cores',
      answers: await json([...items.map((item) => answer('training', item.base, false)(item)), ...items.map((item) => answer('own', item.own, item.product === 'abacus')(item))]),
    },
    train: {
      adapter: [await named('adapter_config.json', 640, 6), await named('adapter_model.safetensors', 9_766_000, 7)], history: await json(history),
      summary: { steps: 128, epochs: 2, tokens: 246_912, trainLoss: 2.71, keptStep: 128, evalLoss: 2.4178, trainableParameters: 2_442_240, totalParameters: 136_957_248, backend: 'tensorflow: libtensorflow 2.20.0 on 2 CPU cores' },
    },
    merge: {
      merged: [await named('config.json', 700, 8), await named('model.safetensors', 1_000_000, 9), await named('tokenizer.json', 2_100, 10)],
      kept: { onto: 'dequantized', reason: 'it is closer to the unmerged model: KL 1.2e-4 against 2.9e-1; the losses are the same within their error (2.4766 against 2.5480, ± 0.0653)' },
      measured: {
        tokens: 532, countedTokens: 145, unmergedLoss: 2.477,
        ways: [{ onto: 'original', evalLoss: 2.548, kl: 0.295, agreement: 0.7448 }, { onto: 'dequantized', evalLoss: 2.4766, kl: 1.2e-4, agreement: 0.9931 }],
      },
      gguf: [
        { type: 'f16', file: await named('model-f16.gguf', 2_708_856, 11), check: { state: 'agrees', prompts: 4, sameTokens: 4, tokens: 53, agreement: 1, kl: 1.3e-6, tolerance: 0.002 } },
        { type: 'q4_k_m', file: await named('model-q4_k_m.gguf', 1_054_538, 12), check: { state: 'differs', prompts: 4, sameTokens: 4, tokens: 53, agreement: 0.4, kl: 0.71, tolerance: 0.5 } },
        { type: 'adapter', file: await named('adapter.gguf', 976_600, 13), check: { state: 'not checked', reason: 'llama.cpp is not set up; npm run setup -- --llama-cpp does that' } },
      ],
    },
    evaluate: { metrics: { ...tuned, ...change.tuned }, backend: 'tensorflow: libtensorflow 2.20.0 on 2 CPU cores', answers: await json(items.map((item) => answer('training', item.tuned, true)(item))) },
    timings: [['ingest', 0.9], ['format', 1.4], ['baseline', 21.3], ['train', 143.8], ['merge', 3.2], ['evaluate', 19.7]].map(([name, seconds], i) => ({ name: String(name), seconds: Number(seconds), key: String(i).repeat(64) })),
  };
}
