import { z } from 'zod';
import { answerSchema, samplePreviewSchema, type Answer, type ReportInput, type SamplePreview } from '../../contracts/stages.js';
import type { ArtifactStore } from '../../store/artifact-store.js';
import { distinctPart } from './distinct-part.js';

/** One point of a loss curve. */
export interface LossPoint {
  step: number;
  epoch: number;
  /** nats per token. */
  loss: number;
}

/** One question with every answer to it. */
export interface AnsweredQuestion {
  /** What sets this question apart from the others. */
  title: string;
  /** The whole prompt in the training format. */
  prompt: string;
  reference: string | null;
  /** The untouched base, asked in its own format. */
  baseOwn?: Answer;
  /** The untouched base, asked in the training format. */
  base?: Answer;
  tuned: Answer;
}

/** All that a report shows: the stage's input and what its references point to. */
export interface ReportData extends ReportInput {
  trainLoss: LossPoint[];
  /** On the test split; the first is the untouched base, at step 0. */
  evalLoss: LossPoint[];
  questions: AnsweredQuestion[];
  preview: SamplePreview;
}

/** The entries of trainer_state.json's log that hold a loss. */
const historySchema = z.object({
  log_history: z.array(z.object({ step: z.number(), epoch: z.number(), loss: z.number().optional(), eval_loss: z.number().optional() })),
});

export async function loadReportData(input: ReportInput, store: ArtifactStore): Promise<ReportData> {
  const read = async <T>(ref: { uri: string; sha256: string; bytes: number; mediaType: string }, schema: z.ZodType<T>): Promise<T> =>
    schema.parse(JSON.parse((await store.getBytes(ref)).toString('utf8')));
  const { log_history } = await read(input.train.history, historySchema);
  const base = await read(input.baseline.answers, z.array(answerSchema));
  const tuned = await read(input.evaluate.answers, z.array(answerSchema));
  return {
    ...input,
    trainLoss: log_history.flatMap(({ step, epoch, loss }) => (loss === undefined ? [] : [{ step, epoch, loss }])),
    evalLoss: [
      { step: 0, epoch: 0, loss: input.baseline.metrics.evalLoss },
      ...log_history.flatMap(({ step, epoch, eval_loss }) => (eval_loss === undefined || step === 0 ? [] : [{ step, epoch, loss: eval_loss }])),
    ],
    questions: answeredQuestions(base, tuned),
    preview: await read(input.format.preview, samplePreviewSchema),
  };
}

/** Answers of one format come in the order of the prompts, which is the same for the base and the tuned model. */
function answeredQuestions(base: readonly Answer[], tuned: readonly Answer[]): AnsweredQuestion[] {
  const inFormat = (answers: readonly Answer[], wanted: Answer['format']) => answers.filter(({ format }) => format === wanted);
  const baseOwn = inFormat(base, 'own');
  const baseTraining = inFormat(base, 'training');
  const answers = inFormat(tuned, 'training');
  const titles = distinctPart(answers.map(({ prompt }) => prompt));
  return answers.map((answer, i) => ({
    title: titles[i], prompt: answer.prompt, reference: answer.reference, baseOwn: baseOwn[i], base: baseTraining[i], tuned: answer,
  }));
}
