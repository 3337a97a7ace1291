import { join } from 'node:path';
import type { ArtifactRef } from '../contracts/artifact.js';
import { InvalidInputError } from '../contracts/errors.js';
import {
  formatInputSchema, formatOutputSchema, type EvaluationPrompt, type FormatInput, type FormatOutput, type SamplePreview, type TokenReport,
} from '../contracts/stages.js';
import { histogram } from '../engine/data/histogram.js';
import { createFormatter, promptColumns, promptProblems, templateProblems, type Formatter, type Row } from '../engine/data/template.js';
import { writeTokenFile } from '../engine/data/token-file.js';
import { tokenTexts } from '../engine/data/token-texts.js';
import { encodePrompts, tokenizeExamples, type TokenizedRow } from '../engine/data/tokenize.js';
import { EngineError } from '../engine/errors.js';
import { openTokenizer } from '../engine/formats/open-tokenizer.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';
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

    const testRows = await readRows(context, input.test);
    const trainRows = await readRows(context, input.train);
    const train = await tokenizeSplit(input, context, formatter, tokenizer, 'train', trainRows);
    const test = await tokenizeSplit(input, context, formatter, tokenizer, 'test', testRows);
    return {
      train: await storeTokens(context, 'train', train),
      test: await storeTokens(context, 'test', test),
      prompts: await storeJson(context, await evaluationPrompts(input, formatter, tokenizer, testRows)),
      preview: await storeJson(context, await samplePreview(formatter, tokenizer, trainRows[0], train[0])),
      report: { train: tokenReport(train), test: tokenReport(test) },
    };
  },
});

async function tokenizeSplit(
  { format, loss }: FormatInput, context: StageContext, formatter: Formatter, tokenizer: Tokenizer, split: Split, rows: Row[],
): Promise<TokenizedRow[]> {
  const onProgress = (done: number) => {
    context.signal.throwIfAborted();
    context.progress(`tokenising ${split} rows`, done, rows.length);
  };
  try {
    return await tokenizeExamples(tokenizer, rows.map(formatter.example), { maxLength: format.maxLength, eos: format.eos, loss, onProgress });
  } catch (error) {
    if (!(error instanceof EngineError) || error.code !== 'no_trainable_token') throw error;
    throw new InvalidInputError([{ path: 'format.maxLength', message: `${split} split: ${error.message}` }]);
  }
}

/** The prompts of the configuration, then the first test rows with their answers. */
async function evaluationPrompts(
  { format, evaluate }: FormatInput, formatter: Formatter, tokenizer: Tokenizer, testRows: readonly Row[],
): Promise<EvaluationPrompt[]> {
  const columns = promptColumns(format);
  const questions = [
    ...evaluate.prompts.map((row) => ({ row, reference: null })),
    ...testRows.slice(0, evaluate.testRows).map((row) => ({ row: pick(row, columns), reference: formatter.response(row) })),
  ];
  const prompts = questions.map(({ row }) => formatter.prompt(row));
  const ownPrompts = questions.map(({ row }) => formatter.ownPrompt(row));
  const promptIds = await encodePrompts(tokenizer, prompts);
  const ownPromptIds = await encodePrompts(tokenizer, ownPrompts);
  return questions.map(({ reference }, i) => ({
    prompt: prompts[i], promptIds: promptIds[i], ownPrompt: ownPrompts[i], ownPromptIds: ownPromptIds[i], reference, stop: evaluate.stop ?? format.endMarker,
  }));
}

async function samplePreview(formatter: Formatter, tokenizer: Tokenizer, row: Row, { ids, mask }: TokenizedRow): Promise<SamplePreview> {
  const { prompt, completion } = formatter.example(row);
  const texts = await tokenTexts(tokenizer, ids);
  return {
    rendered: prompt + completion,
    tokens: texts.map((text, i) => ({ id: ids[i], text, trained: mask[i] === 1 })),
  };
}

function tokenReport(rows: readonly TokenizedRow[]): TokenReport {
  const lengths = rows.map(({ ids }) => ids.length);
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  return {
    rows: rows.length,
    tokens: sum(lengths),
    trainedTokens: sum(rows.map(({ mask }) => sum(Array.from(mask)))),
    truncated: rows.filter(({ truncated }) => truncated).length,
    longest: lengths.reduce((longest, length) => Math.max(longest, length), 0),
    lengths: histogram(lengths),
  };
}

const pick = (row: Row, columns: readonly string[]): Row => Object.fromEntries(columns.map((column) => [column, row[column]]));

async function readRows(context: StageContext, ref: ArtifactRef): Promise<Row[]> {
  const text = (await context.store.getBytes(ref)).toString('utf8');
  return text.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as Row);
}

async function storeTokens(context: StageContext, split: Split, rows: readonly TokenizedRow[]): Promise<ArtifactRef> {
  const path = join(context.workDirectory, `${split}.safetensors`);
  await writeTokenFile(path, rows);
  return context.store.putFile(path, 'application/octet-stream');
}

const storeJson = (context: StageContext, value: unknown): Promise<ArtifactRef> =>
  context.store.putBytes(Buffer.from(JSON.stringify(value)), 'application/json');
