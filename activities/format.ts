import { join } from 'node:path';
import type { ArtifactRef } from '../contracts/artifact.js';
import { InvalidInputError } from '../contracts/errors.js';
import {
  formatInputSchema, formatOutputSchema, type EvaluationPrompt, type FormatInput, type FormatOutput, type SamplePreview, type TokenReport,
} from '../contracts/stages.js';
import { histogram } from '../engine/data/histogram.js';
import { createFormatter, promptColumns, promptProblems, templateProblems, type Example, type Formatter, type Row } from '../engine/data/template.js';
import { writeTokenFile } from '../engine/data/token-file.js';
import { tokenTexts } from '../engine/data/token-texts.js';
import { encodePrompts, tokenizeExamples, type TokenizedRows } from '../engine/data/tokenize.js';
import { EngineError } from '../engine/errors.js';
import { openTokenizer } from '../engine/formats/open-tokenizer.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';
import { utf8Lines } from './readers/utf8.js';
import { defineStage, type StageContext } from './stage.js';

type Split = 'train' | 'test';

/** Renders and tokenises both splits, and writes down the questions that the base and the tuned model are asked. */
export const formatStage = defineStage<FormatInput, FormatOutput>({
  name: 'format',
  version: 2,
  input: formatInputSchema,
  output: formatOutputSchema,
  async run(input, context) {
    const tokenizer = await openTokenizer(await context.models.open(input.model));
    const problems = [...templateProblems(input.format, input.columns, tokenizer), ...promptProblems(input.format, input.evaluate.prompts)];
    if (problems.length > 0) throw new InvalidInputError(problems);
    const formatter = createFormatter(input.format, tokenizer);

    const train = await tokenizeSplit(input, context, formatter, tokenizer, 'train', 1);
    const test = await tokenizeSplit(input, context, formatter, tokenizer, 'test', input.evaluate.testRows);
    const prompts = await evaluationPrompts(input, formatter, tokenizer, test.first);
    const { vocabSize } = input.model.architecture;
    refuseUnknownTokens(tokenizer, vocabSize, {
      'train split': [train.rows.flat().ids],
      'test split': [test.rows.flat().ids],
      'prompts of the evaluation': prompts.flatMap(({ promptIds, ownPromptIds }) => [promptIds, ownPromptIds]),
    });
    return {
      train: await storeTokens(context, 'train', train),
      test: await storeTokens(context, 'test', test),
      prompts: await storeJson(context, prompts),
      preview: await storeJson(context, await samplePreview(formatter, tokenizer, train)),
      report: { train: tokenReport(train), test: tokenReport(test) },
    };
  },
});

interface Tokenized extends TokenizedRows {
  /** The first of the split's rows. */
  first: Row[];
}

/** Tokenises a split as it is read; rows of text are not kept, but for the first ones. */
async function tokenizeSplit(
  { format, loss, ...input }: FormatInput, context: StageContext, formatter: Formatter, tokenizer: Tokenizer, split: Split, firstRows: number,
): Promise<Tokenized> {
  const file = { path: join(context.workDirectory, `${split}.jsonl`), name: `${split}.jsonl` };
  await context.store.getFile(input[split], file.path, { signal: context.signal });
  const total = await countLines(file);
  const first: Row[] = [];
  async function* examples(): AsyncGenerator<Example> {
    for await (const { text } of utf8Lines(file)) {
      const row = JSON.parse(text) as Row;
      if (first.length < firstRows) first.push(row);
      yield formatter.example(row);
    }
  }
  const onProgress = (done: number) => {
    context.signal.throwIfAborted();
    context.progress(`tokenising ${split} rows`, done, total);
  };
  try {
    return { ...(await tokenizeExamples(tokenizer, examples(), { maxLength: format.maxLength, eos: format.eos, loss, onProgress })), first };
  } catch (error) {
    if (!(error instanceof EngineError) || error.code !== 'no_trainable_token') throw error;
    throw new InvalidInputError([{ path: 'format.maxLength', message: `${split} split: ${error.message}` }]);
  }
}

/** A tokenizer may have added tokens for which its model has no embedding. */
function refuseUnknownTokens(tokenizer: Tokenizer, vocabSize: number, texts: Record<string, ArrayLike<number>[]>): void {
  const problems = Object.entries(texts).flatMap(([what, rows]) => {
    const unknown = new Set<number>();
    for (const ids of rows) for (let i = 0; i < ids.length; i++) if (ids[i] >= vocabSize) unknown.add(ids[i]);
    const names = [...unknown].slice(0, 5).map((id) => `${JSON.stringify(tokenizer.idToToken(id) ?? '')} (${id})`);
    return names.length > 0 ? [{ path: 'model.uri', message: `${what}: expected tokens below ${vocabSize}, the model's vocabulary, got ${names.join(', ')}` }] : [];
  });
  if (problems.length > 0) throw new InvalidInputError(problems);
}

async function countLines(file: { path: string; name: string }): Promise<number> {
  let count = 0;
  for await (const line of utf8Lines(file)) count = line.number;
  return count;
}

/** The prompts of the configuration, then the first test rows with their answers. */
async function evaluationPrompts(
  { format, evaluate }: FormatInput, formatter: Formatter, tokenizer: Tokenizer, testRows: readonly Row[],
): Promise<EvaluationPrompt[]> {
  const columns = promptColumns(format);
  const questions = [
    ...evaluate.prompts.map((row) => ({ row, reference: null })),
    ...testRows.map((row) => ({ row: pick(row, columns), reference: formatter.response(row) })),
  ];
  const prompts = questions.map(({ row }) => formatter.prompt(row));
  const ownPrompts = questions.map(({ row }) => formatter.ownPrompt(row));
  const promptIds = await encodePrompts(tokenizer, prompts);
  const ownPromptIds = await encodePrompts(tokenizer, ownPrompts);
  return questions.map(({ reference }, i) => ({
    prompt: prompts[i], promptIds: promptIds[i], ownPrompt: ownPrompts[i], ownPromptIds: ownPromptIds[i], reference, stop: evaluate.stop ?? format.endMarker,
  }));
}

async function samplePreview(formatter: Formatter, tokenizer: Tokenizer, { first: [row], rows }: Tokenized): Promise<SamplePreview> {
  const { prompt, completion } = formatter.example(row);
  const [ids, mask] = [rows.ids(0), rows.mask(0)];
  const texts = await tokenTexts(tokenizer, ids);
  return {
    rendered: prompt + completion,
    tokens: texts.map((text, i) => ({ id: ids[i], text, trained: mask[i] === 1 })),
  };
}

function tokenReport({ rows, truncated }: Tokenized): TokenReport {
  const { ids, mask, offsets } = rows.flat();
  const lengths = Uint32Array.from({ length: rows.count }, (_, row) => offsets[row + 1] - offsets[row]);
  return {
    rows: rows.count,
    tokens: ids.length,
    trainedTokens: mask.reduce((sum, counted) => sum + counted, 0),
    truncated: truncated.reduce((sum, cut) => sum + cut, 0),
    longest: lengths.reduce((longest, length) => Math.max(longest, length), 0),
    lengths: histogram(lengths),
  };
}

const pick = (row: Row, columns: readonly string[]): Row => Object.fromEntries(columns.map((column) => [column, row[column]]));

async function storeTokens(context: StageContext, split: Split, { rows }: Tokenized): Promise<ArtifactRef> {
  const path = join(context.workDirectory, `${split}.safetensors`);
  await writeTokenFile(path, rows);
  return context.store.putFile(path, 'application/octet-stream');
}

const storeJson = (context: StageContext, value: unknown): Promise<ArtifactRef> =>
  context.store.putBytes(Buffer.from(JSON.stringify(value)), 'application/json');
