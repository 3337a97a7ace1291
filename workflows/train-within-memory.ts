import { ApplicationFailure, upsertMemo } from '@temporalio/workflow';
import { failureTypes } from '../contracts/pipeline.js';
import type { TrainInput, TrainOutput } from '../contracts/stages.js';
import type { Run, StageProxy } from './run.js';

export interface Batch {
  /** Rows in a micro-batch. */
  batchSize: number;
  /** Micro-batches in an optimizer step. */
  accumulation: number;
}

/**
 * Trains; a micro-batch that doesn't fit into memory is made at most half as large, with the rows of an optimizer step kept,
 * and after a loss that is not a number training goes back to the last good checkpoint, once.
 * @returns the batch that was used, beside the result
 */
export async function trainWithinMemory(
  run: Run,
  train: StageProxy<TrainInput, TrainOutput>,
  input: TrainInput,
): Promise<{ trained: TrainOutput; batch: Batch }> {
  let batch: Batch = { batchSize: input.train.batchSize, accumulation: input.train.accumulation };
  let wentBack = false;
  for (;;) {
    try {
      const trained = await run.stage('train', train, { ...input, train: { ...input.train, ...batch } });
      return { trained, batch };
    } catch (error) {
      const smaller = smallerBatch(batch);
      if (isFailure(error, failureTypes.outOfMemory) && smaller) {
        run.note(`Out of memory with ${inWords(batch)}: went on with ${inWords(smaller)}.`);
        batch = smaller;
        upsertMemo({ batchSize: batch.batchSize, accumulation: batch.accumulation });
      } else if (isFailure(error, failureTypes.nanLoss) && !wentBack) {
        wentBack = true;
        run.note(`${error.cause?.message ?? error.message}. Went back to the last good checkpoint.`);
      } else {
        throw isFailure(error, failureTypes.outOfMemory) ? withAdvice(error) : error;
      }
    }
  }
}

/** The largest micro-batch of at most half the rows that divides an optimizer step's rows; undefined at one row. */
export function smallerBatch({ batchSize, accumulation }: Batch): Batch | undefined {
  const rows = batchSize * accumulation;
  for (let size = Math.floor(batchSize / 2); size >= 1; size -= 1) {
    if (rows % size === 0) return { batchSize: size, accumulation: rows / size };
  }
  return undefined;
}

const inWords = ({ batchSize, accumulation }: Batch) => `${batchSize} × ${accumulation} rows a step`;

const isFailure = (error: unknown, type: string): error is ApplicationFailure => error instanceof ApplicationFailure && error.type === type;

function withAdvice({ message, type, cause }: ApplicationFailure): ApplicationFailure {
  return ApplicationFailure.create({
    message: `${message}\nOne row a micro-batch does not fit: turn on train.checkpointing, lower format.maxLength or choose base nf4.`,
    type: type ?? undefined, nonRetryable: true, cause,
  });
}
