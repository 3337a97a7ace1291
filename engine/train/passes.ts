import { dispose, scalar, type Scalar, type Tensor, type Variable } from '@tensorflow/tfjs-core';
import { lineWidth, packLine, packRows, type PackedBatch, type TokenRows } from '../data/batches.js';
import { dropoutStream, type DropoutDraw, type LoraAdapter } from '../model/adapter.js';
import { BatchFeed } from '../model/batch-feed.js';
import { runBlocks } from '../model/blocks.js';
import { lossAndGradients } from '../model/gradients.js';
import { blockContext, embedIds, summedLoss, type Llama } from '../model/llama.js';
import type { LlamaModel } from '../model/load.js';
import { adaptedModel } from '../model/trained-parts.js';
import { createGradientSums } from '../tensor/gradient-sums.js';
import { replay, replayer, type Computation, type MeasuredMemory } from '../tensor/replay.js';

/** Lays rows out as the backend likes it: one that records computations gets a single line of one of few widths. */
export const layOut = (rows: TokenRows, indices: readonly number[]): PackedBatch => (replayer() ? packLine : packRows)(rows, indices);

/** How large a pass is. */
export interface PassSize {
  tokens: number;
  /** Those that the loss counts. */
  counted: number;
}

/** A batch of that size in a single line, for measuring what it takes. */
function batchOf({ tokens, counted }: PassSize): PackedBatch {
  const width = lineWidth(tokens);
  return {
    shape: [1, width], inputIds: new Int32Array(width), positions: new Int32Array(width), segments: new Int32Array(width),
    labels: new Int32Array(width).fill(-1).fill(0, 0, counted), rows: 1, tokens, countedTokens: counted,
  };
}

function measure(inputs: Tensor[], computation: Computation): MeasuredMemory {
  const measured = replayer()!.measure(computation);
  dispose(inputs);
  return measured;
}

/** Numbers the instances below: what one of them recorded holds the model's own places in memory and serves no other. */
let instances = 0;

/** Passes over batches without gradients. */
export class LossPasses {
  private readonly instance = ++instances;
  private readonly feed: BatchFeed;
  private readonly llama: Llama;

  /** @param longest tokens of the longest row */
  constructor({ model, adapter }: Llama, longest: number) {
    const llama = { model: adaptedModel(model, adapter), adapter };
    this.llama = llama;
    this.feed = new BatchFeed(llama.model.config, longest, replayer() !== undefined);
  }

  /** Queues a batch. @returns the sum of the counted tokens' negative log-likelihoods in nats, on the device */
  run(batch: PackedBatch): Scalar {
    const inputs = this.feed.upload(batch);
    const [loss] = replay(this.computation(inputs));
    dispose(inputs);
    return loss as Scalar;
  }

  /** What a pass takes, on a backend that can tell. */
  measure(size: PassSize): MeasuredMemory {
    const inputs = this.feed.upload(batchOf(size));
    return measure(inputs, this.computation(inputs));
  }

  private computation(inputs: Tensor[]): Computation {
    const { model, adapter } = this.llama;
    return {
      key: `loss ${this.instance}`, inputs,
      parameters: [...(adapter?.parameters() ?? []).map(({ variable }) => variable), ...this.feed.constants],
      draw: { step: 0, stream: 0 },
      compute: (tensors) => {
        const batch = this.feed.open(tensors);
        return [summedLoss(this.llama, runBlocks(this.llama, embedIds(model, batch.ids), blockContext(this.llama, batch)), batch)];
      },
    };
  }

  dispose(): void {
    this.feed.dispose();
  }
}

/** A batch of a training step, uploaded. */
export interface UploadedBatch {
  batch: PackedBatch;
  inputs: Tensor[];
}

/** Passes over batches that add up the gradients of a step. */
export class GradientPasses {
  /** One a parameter of the adapter. */
  readonly sums: Variable[];
  private readonly feed: BatchFeed;
  private readonly model: LlamaModel;
  private readonly instance = ++instances;
  /** Run the blocks again in the backward pass. */
  recompute = false;
  /** Logits that exist at one time. @default as `linearCrossEntropy` has it */
  logits?: number;

  /**
   * @param longest tokens of the longest row
   * @param neftuneNoiseAlpha see `BatchFeed`
   */
  constructor(
    model: LlamaModel,
    private readonly adapter: LoraAdapter,
    longest: number,
    neftuneNoiseAlpha?: number,
  ) {
    this.model = adaptedModel(model, adapter);
    this.feed = new BatchFeed(model.config, longest, replayer() !== undefined, neftuneNoiseAlpha);
    this.sums = createGradientSums(this.variables);
  }

  /** @param weight what the batch's summed loss is multiplied by */
  upload(batch: PackedBatch, weight: number): UploadedBatch {
    return { batch, inputs: [...this.feed.upload(batch), scalar(weight)] };
  }

  /**
   * Queues a batch, whose tensors are disposed.
   * @param first of its step
   * @returns the sum of the counted tokens' negative log-likelihoods in nats, on the device
   */
  run({ inputs }: UploadedBatch, draw: DropoutDraw, first: boolean): Scalar {
    try {
      return replay(this.computation(inputs, draw, first))[0] as Scalar;
    } finally {
      dispose(inputs);
    }
  }

  /** What a pass takes, on a backend that can tell. */
  measure(size: PassSize): MeasuredMemory {
    const { inputs } = this.upload(batchOf(size), 1);
    return measure(inputs, this.computation(inputs, { seed: 0, step: 1, microBatch: 0 }, true));
  }

  private computation(inputs: Tensor[], draw: DropoutDraw, first: boolean): Computation {
    const { model, adapter, sums, recompute, logits } = this;
    return {
      key: `gradients ${this.instance}, ${first ? 'first' : 'added'}, ${recompute ? 'recomputing' : 'keeping'}, ${logits ?? 'default'} logits`, inputs,
      parameters: [...this.variables, ...sums, ...this.feed.constants],
      draw: { step: draw.step, stream: dropoutStream(draw) },
      compute: (tensors) => {
        const weight = tensors[tensors.length - 1] as Scalar;
        return [lossAndGradients({ model, adapter, draw }, this.feed.open(tensors.slice(0, -1)), { weight, sums, first, recompute, logits })];
      },
    };
  }

  dispose(): void {
    this.feed.dispose();
    dispose(this.sums);
  }

  private get variables(): Variable[] {
    return this.adapter.parameters().map(({ variable }) => variable);
  }
}
