/**
 * Answers prompts by a base model and by adapters of it, and prints the result: one JSON line (contracts/ask.ts). `temper ask` starts it
 * in a process of its own, as a run does its engine.
 *
 *   ask.ts JOB        the job as JSON
 */
import { askJobSchema, type AskedAnswer, type AskJob, type AskResult } from '../contracts/ask.js';
import { InvalidInputError } from '../contracts/errors.js';
import { locateAdapter } from '../activities/sources/adapters.js';
import { locateModel } from '../activities/sources/models.js';
import { asInput } from '../activities/sources/source-uri.js';
import { EngineError } from '../engine/errors.js';
import { openModel } from '../engine/formats/open-model.js';
import { openTokenizer } from '../engine/formats/open-tokenizer.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';
import type { LoraAdapter } from '../engine/model/adapter.js';
import { sharesBatches } from '../engine/model/adapter-rows.js';
import { generate } from '../engine/model/generate.js';
import { loadModel, type LlamaModel } from '../engine/model/load.js';
import { loadPeft } from '../engine/model/peft.js';
import { adaptedModel } from '../engine/model/trained-parts.js';
import { loadConfig } from '../temporal.config.js';
import { sourceSettings } from './services.js';
import { chooseBackend } from './trainer-load.js';

/** One prompt for one adapter, or for the base alone. */
interface Question {
  prompt: string;
  ids: number[];
  name: string | null;
  adapter: LoraAdapter | undefined;
}

async function ask(job: AskJob): Promise<AskResult> {
  const settings = sourceSettings(loadConfig());
  const found = await Promise.allSettled([
    asInput('model', async () => (await (await locateModel(job.model, settings)).fetch()).path),
    ...job.adapters.map((uri, i) => asInput(`adapters[${i}]`, async () => (await (await locateAdapter(uri, settings)).fetch()).path)),
  ]);
  const directories = allOf(found);
  const { name: backend } = await chooseBackend(job.base, job.backend);
  const [modelDirectory, ...adapterDirectories] = directories;
  const tokenizer = await openTokenizer(modelDirectory);
  const source = await openModel(modelDirectory);
  const model = await loadModel(source, job.base).finally(() => source.close());
  const adapters = await Promise.all(adapterDirectories.map((directory) => loadPeft(model.config, directory)));

  const ids = await tokenizer.encodeBatch(job.prompts.map((prompt) => asAsked(tokenizer, prompt, job.chat)), { addBos: tokenizer.addsBos && !job.chat });
  const questions = job.prompts.flatMap((prompt, i): Question[] => [
    { prompt, ids: ids[i], name: null, adapter: undefined },
    ...adapters.map((adapter, place): Question => ({ prompt, ids: ids[i], name: job.adapters[place], adapter })),
  ]);
  return { backend, answers: await answerAll(model, tokenizer, questions, job) };
}

/** What was found, or everything that was not. */
function allOf<T>(found: readonly PromiseSettledResult<T>[]): T[] {
  const problems = found.flatMap((one) => {
    if (one.status === 'fulfilled') return [];
    if (one.reason instanceof InvalidInputError) return one.reason.problems;
    throw one.reason;
  });
  if (problems.length > 0) throw new InvalidInputError(problems);
  return found.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
}

function asAsked(tokenizer: Tokenizer, prompt: string, chat: boolean): string {
  if (!chat) return prompt;
  if (tokenizer.chatTemplate === undefined) throw new InvalidInputError([{ path: 'chat', message: 'expected a model with a chat template, got one without' }]);
  return tokenizer.renderChat([{ role: 'user', content: prompt }], { addGenerationPrompt: true });
}

/** All questions that can share a batch in one pass over the base; those of other adapters adapter by adapter. */
async function answerAll(model: LlamaModel, tokenizer: Tokenizer, questions: readonly Question[], { maxNewTokens, stop }: AskJob): Promise<AskedAnswer[]> {
  const options = { maxNewTokens, stopStrings: stop === undefined ? [] : [stop] };
  const answers = new Map<Question, AskedAnswer>();
  const answer = async (batch: readonly Question[], alone?: LoraAdapter): Promise<void> => {
    const prompts = batch.map(({ ids }) => ids);
    const generated = alone
      ? await generate({ model: adaptedModel(model, alone), adapter: alone }, tokenizer, prompts, options)
      : await generate({ model }, tokenizer, prompts, { ...options, adapters: batch.map(({ adapter }) => adapter) });
    batch.forEach((question, i) => {
      const { text, ids, stopped } = generated[i];
      answers.set(question, { prompt: question.prompt, adapter: question.name, text: text.trim(), tokens: ids.length, stopped });
    });
  };
  await answer(questions.filter(({ adapter }) => !adapter || sharesBatches(adapter)));
  for (const adapter of new Set(questions.map((question) => question.adapter))) {
    if (adapter && !sharesBatches(adapter)) await answer(questions.filter((question) => question.adapter === adapter), adapter);
  }
  return questions.map((question) => answers.get(question)!);
}

function problemsOf(error: unknown): AskResult {
  if (error instanceof InvalidInputError) return { problems: [...error.problems] };
  if (error instanceof EngineError && error.failure === 'invalidInput') return { problems: [{ path: 'ask', message: error.message }] };
  throw error;
}

const result = await ask(askJobSchema.parse(JSON.parse(process.argv[2]))).catch(problemsOf);
process.stdout.write(`${JSON.stringify(result)}\n`);
process.exit(0);
