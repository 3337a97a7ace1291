import type { Answer, EvaluationPrompt } from '../contracts/stages.js';
import type { TrainerJob } from '../contracts/trainer-messages.js';
import { answerMetrics } from '../engine/data/text-metrics.js';
import { readTokenFile } from '../engine/data/token-file.js';
import { EngineError } from '../engine/errors.js';
import { openTokenizer } from '../engine/formats/open-tokenizer.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';
import { generate } from '../engine/model/generate.js';
import type { Llama } from '../engine/model/llama.js';
import { loadPeft } from '../engine/model/peft.js';
import { adaptedModel } from '../engine/model/trained-parts.js';
import { evaluateLoss } from '../engine/train/evaluate.js';
import type { TrainerChannel } from './trainer-channel.js';
import { checkpointless, loadBase, startBackend } from './trainer-load.js';

type EvaluateJob = Extract<TrainerJob, { kind: 'evaluate' }>;

/** A question to be asked, in one of the two formats. */
interface Question {
  format: Answer['format'];
  prompt: string;
  ids: number[];
  reference: string | null;
  stop: string;
}

/** Measures a model, with an adapter or without: loss over the test rows, and greedy answers in both formats. */
export async function evaluateJob(job: EvaluateJob, channel: TrainerChannel): Promise<void> {
  const backend = await startBackend(job, job.base, channel);
  const testRows = await readTokenFile(job.testTokens);
  const tokenizer = await openTokenizer(job.modelDirectory);
  const model = await loadBase(job.modelDirectory, job.base, channel);
  const adapter = job.adapterDirectory === undefined ? undefined : await loadPeft(model.config, job.adapterDirectory);
  const llama: Llama = { model: adaptedModel(model, adapter), adapter };

  const { loss, tokens } = await evaluateLoss(llama, testRows, {
    batchSize: job.batchSize,
    onBatch: async (done, total) => {
      channel.emit({ event: 'progress', phase: 'evaluating', done, total });
      await checkpointless(channel);
    },
  });
  const perplexity = Math.exp(loss);
  if (!Number.isFinite(perplexity)) {
    throw new EngineError('invalidInput', 'unusable_model', `test rows: perplexity: expected a finite number, got e^${loss}`);
  }
  const answers = await answer(llama, tokenizer, job.prompts.flatMap(questionsOf), job, channel);
  const scored = answerMetrics(answers.filter(({ format }) => format === 'training'));
  channel.emit({
    event: 'done',
    result: { kind: 'evaluate', backend, answers, metrics: { evalLoss: loss, perplexity, evalTokens: tokens, ...scored } },
  });
}

const questionsOf = ({ prompt, promptIds, ownPrompt, ownPromptIds, reference, stop }: EvaluationPrompt): Question[] => [
  { format: 'training', prompt, ids: promptIds, reference, stop },
  { format: 'own', prompt: ownPrompt, ids: ownPromptIds, reference, stop: '' },
];

/** Greedy answers, in the order of the questions. Questions of similar length, with the same stop text, share a batch. */
async function answer(llama: Llama, tokenizer: Tokenizer, questions: Question[], { maxNewTokens, batchSize }: EvaluateJob, channel: TrainerChannel): Promise<Answer[]> {
  const answers = new Map<Question, Answer>();
  const batches = batchesOf(questions, batchSize);
  for (const [number, batch] of batches.entries()) {
    const generated = await generate(llama, tokenizer, batch.map(({ ids }) => ids), {
      maxNewTokens,
      stopStrings: batch[0].stop === '' ? [] : [batch[0].stop],
      onStep: async (step) => {
        channel.emit({ event: 'progress', phase: 'generating', done: number * maxNewTokens + step, total: batches.length * maxNewTokens });
        await checkpointless(channel);
      },
    });
    batch.forEach((question, i) => {
      const { ids, text, stopped } = generated[i];
      const { format, prompt, reference } = question;
      answers.set(question, { format, prompt, reference, text: text.trim(), tokens: ids.length, stopped });
    });
  }
  return questions.map((question) => answers.get(question)!);
}

function batchesOf(questions: Question[], batchSize: number): Question[][] {
  const batches: Question[][] = [];
  for (const stop of new Set(questions.map((question) => question.stop))) {
    const group = questions.filter((question) => question.stop === stop).sort((a, b) => b.ids.length - a.ids.length);
    for (let from = 0; from < group.length; from += batchSize) batches.push(group.slice(from, from + batchSize));
  }
  return batches;
}
