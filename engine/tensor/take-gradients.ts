import { add, clone, engine, reshape, tidy, type Tensor } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';

/** A node of tfjs's tape, and the engine's members around it: as in tfjs-core 4.22. */
interface TapeNode {
  kernelName: string;
  inputs: Record<string, Tensor>;
  outputs: Tensor[];
  gradient?: (dys: (Tensor | undefined)[]) => Record<string, () => Tensor>;
  saved?: Tensor[];
}
interface TapeEngine {
  state: { activeTape: TapeNode[] | null; gradientDepth: number };
  startTape(): void;
  endTape(): void;
}

/**
 * The gradients of f with respect to xs, as `engine().gradients` gives them, with less memory: what the forward pass saved, and
 * every gradient that was passed on, is freed as soon as it was used, and nodes whose gradient depends on shapes alone save nothing.
 * @param dy the gradient of what f returns; disposed
 * @returns the gradients in the order of xs, which f must depend on
 */
export function takeGradients<T extends Tensor>(f: () => T, xs: readonly Tensor[], dy: Tensor): { value: T; gradients: Tensor[] } {
  const { value, tape } = record(f);
  try {
    const gradients = tidy(() => walkBack(connected(tape, xs, value), new Map([[value.id, dy]]), xs));
    return { value, gradients };
  } finally {
    dropSaved(tape);
  }
}

function record<T extends Tensor>(f: () => T): { value: T; tape: TapeNode[] } {
  const tfjs = engine() as unknown as TapeEngine;
  tfjs.startTape();
  const tape = new FrugalTape();
  tfjs.state.activeTape = tape;
  try {
    return { value: tidy(f), tape };
  } catch (err) {
    dropSaved(tape);
    throw err;
  } finally {
    tfjs.endTape();
    tfjs.state.activeTape = null;
  }
}

/** Gradients that need no more than shapes. tfjs saves these nodes' inputs all the same, which would keep them in memory. */
const byShape: Record<string, (inputs: Record<string, Tensor>) => ((dy: Tensor) => Record<string, () => Tensor>) | undefined> = {
  Add: ({ a, b }) => (a.shape.join() === b.shape.join() ? (dy) => ({ a: () => clone(dy), b: () => clone(dy) }) : undefined),
  Reshape: ({ x: { shape } }) => (dy) => ({ x: () => reshape(dy, shape) }),
};

class FrugalTape extends Array<TapeNode> {
  override push(...nodes: TapeNode[]): number {
    for (const node of nodes) {
      const gradient = byShape[node.kernelName]?.(node.inputs);
      if (!gradient) continue;
      dropSaved([node]);
      node.gradient = ([dy]) => gradient(dy!);
    }
    return super.push(...nodes);
  }
}

function dropSaved(nodes: readonly TapeNode[]): void {
  for (const node of nodes) {
    for (const tensor of node.saved ?? []) if (!tensor.isDisposed) tensor.dispose();
    node.saved = [];
  }
}

interface ConnectedNode {
  node: TapeNode;
  /** Names of the inputs that depend on xs. */
  wanted: string[];
}

/** Nodes through which y depends on xs, in the order of the tape. */
function connected(tape: readonly TapeNode[], xs: readonly Tensor[], y: Tensor): ConnectedNode[] {
  const fromX = new Set(xs.map(({ id }) => id));
  const candidates = [...tape].flatMap((node) => {
    const wanted = Object.keys(node.inputs).filter((name) => fromX.has(node.inputs[name].id));
    if (wanted.length === 0) return [];
    for (const { id } of node.outputs) fromX.add(id);
    return [{ node, wanted }];
  });
  const toY = new Set([y.id]);
  return candidates
    .reverse()
    .filter(({ node, wanted }) => {
      if (!node.outputs.some(({ id }) => toY.has(id))) return false;
      for (const name of wanted) toY.add(node.inputs[name].id);
      return true;
    })
    .reverse();
}

function walkBack(nodes: readonly ConnectedNode[], gradients: Map<number, Tensor>, xs: readonly Tensor[]): Tensor[] {
  const asked = new Set(xs.map(({ id }) => id));
  for (const { node, wanted } of [...nodes].reverse()) {
    const dys = node.outputs.map(({ id }) => gradients.get(id));
    const found = tidy(() => {
      const thunks = node.gradient!(dys);
      return wanted.map((name) => {
        const dx = thunks[name]();
        return dys.includes(dx) ? clone(dx) : dx;
      });
    });
    dropSaved([node]);
    for (const { id } of node.outputs) {
      if (asked.has(id)) continue;
      gradients.get(id)?.dispose();
      gradients.delete(id);
    }
    wanted.forEach((name, i) => {
      const { id } = node.inputs[name], before = gradients.get(id);
      gradients.set(id, before ? add(before, found[i]) : found[i]);
      if (before) for (const part of [before, found[i]]) part.dispose();
    });
  }
  return xs.map(({ id }) => {
    const gradient = gradients.get(id);
    if (!gradient) throw new EngineError('internal', 'no_gradient', 'takeGradients: xs: expected tensors that the result depends on, got one that it does not');
    return gradient;
  });
}
