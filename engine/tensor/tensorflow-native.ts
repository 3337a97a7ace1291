import { backend, getBackend, scalar, type Tensor } from '@tensorflow/tfjs-core';

/** The part of tfjs-node's backend used here: TensorFlow ops by their own name, without tfjs's checks in between. */
interface NativeBackend {
  binding: Record<'TF_ATTR_TYPE' | 'TF_ATTR_INT' | 'TF_ATTR_BOOL', number> & {
    createTensor(shape: number[], type: number, values: Int32Array): number;
    deleteTensor(id: number): void;
    executeOp(name: string, attributes: NativeAttribute[], inputs: number[], outputs: number): NativeTensor[];
  };
  createOutputTensor(tensor: NativeTensor): Tensor;
  executeSingleOutput(name: string, attributes: NativeAttribute[], inputs: Tensor[]): Tensor;
}
/** A tensor that tfjs does not know of. */
interface NativeTensor {
  id: number;
  shape: number[];
  dtype: number;
}
interface NativeAttribute {
  name: string;
  type: number;
  value: unknown;
}

/** TF_DataType of tensorflow/c/tf_datatype.h; tfjs itself knows only float32, int32, bool and string. */
export const nativeType = { float32: 1, int32: 3, uint8: 4, int16: 5, int64: 9, bool: 10, uint64: 23 } as const;
export type NativeType = keyof typeof nativeType;

/** True when the current backend runs TensorFlow's own ops. */
export const isNative = (): boolean => getBackend() === 'tensorflow';

export interface NativeAttributes {
  types?: Record<string, NativeType>;
  ints?: Record<string, number>;
  bools?: Record<string, boolean>;
}

/** Runs a TensorFlow op with one output. The result is tracked by the current tidy. A wide type shows as the nearest tfjs dtype. */
export const native = (op: string, inputs: Tensor[], attributes: NativeAttributes = {}): Tensor =>
  tensorflow().executeSingleOutput(op, attributeList(attributes), inputs);

const tensorflow = (): NativeBackend => backend() as unknown as NativeBackend;

function attributeList({ types = {}, ints = {}, bools = {} }: NativeAttributes): NativeAttribute[] {
  const { TF_ATTR_TYPE, TF_ATTR_INT, TF_ATTR_BOOL } = tensorflow().binding;
  return [
    ...Object.entries(types).map(([name, type]) => ({ name, type: TF_ATTR_TYPE, value: nativeType[type] })),
    ...Object.entries(ints).map(([name, value]) => ({ name, type: TF_ATTR_INT, value })),
    ...Object.entries(bools).map(([name, value]) => ({ name, type: TF_ATTR_BOOL, value })),
  ];
}

/** Rows `indices` of `table` along its first axis. Unlike tfjs's gather it does not read the indices back to check them. */
export const gatherRows = (table: Tensor, indices: Tensor): Tensor =>
  native('GatherV2', [table, indices, scalar(0, 'int32')], {
    types: { Tparams: table.dtype as NativeType, Tindices: 'int32', Taxis: 'int32' },
    ints: { batch_dims: 0 },
  });

/** The bytes of int32 words, 0 to 255: [words] → int32 [words, 4]. */
export const bytesOf = (words: Tensor): Tensor =>
  native('Cast', [native('Bitcast', [words], { types: { T: 'int32', type: 'uint8' } })], {
    types: { SrcT: 'uint8', DstT: 'int32' },
    bools: { Truncate: false },
  });

/** RNG_ALG_PHILOX of TensorFlow's stateless random ops. */
const philoxAlgorithm = 1;

/**
 * Which of the 15-bit draws of TensorFlow's Philox4x32-10 reach a threshold: bool. Two draws a word: the low 15 bits of its low
 * half, then of its high half.
 * @param key, counter 32-bit words, least significant first: 2 and 4 of them
 */
export function philoxReaches(threshold: number, shape: number[], key: number[], counter: number[]): Tensor {
  const { binding, createOutputTensor } = tensorflow();
  const { int32, int64 } = nativeType;
  // 64-bit words and 16-bit draws are types that tfjs does not know, so these tensors are made and freed by hand.
  const made: number[] = [];
  const constant = (dims: number[], type: number, words: number[]): number => tracked(binding.createTensor(dims, type, Int32Array.from(words, (word) => word | 0)));
  const run = (op: string, attributes: NativeAttribute[], ...inputs: number[]): NativeTensor => binding.executeOp(op, attributes, inputs, 1)[0];
  const tracked = (id: number): number => {
    made.push(id);
    return id;
  };
  const bitcast = (id: number, from: NativeType, to: NativeType): number => tracked(run('Bitcast', attributeList({ types: { T: from, type: to } }), id).id);
  const on = (type: NativeType): NativeAttribute[] => attributeList({ types: { T: type } });
  const shaped = (id: number, dims: number[]): NativeTensor => run('Reshape', attributeList({ types: { T: 'bool', Tshape: 'int32' } }), id, constant([dims.length], int32, dims));

  const size = shape.reduce((product, n) => product * n, 1);
  const [unsignedKey, unsignedCounter] = [key, counter].map((words) => bitcast(constant([words.length / 2], int64, words), 'int64', 'uint64'));
  const fullInt = attributeList({ types: { dtype: 'int32', Tshape: 'int32' } });
  const words = tracked(run('StatelessRandomUniformFullIntV2', fullInt, constant([1], int32, [Math.ceil(size / 2)]), unsignedKey, unsignedCounter, constant([], int32, [philoxAlgorithm])).id);
  const scalar16 = (value: number): number => tracked(run('Cast', attributeList({ types: { SrcT: 'int32', DstT: 'int16' }, bools: { Truncate: false } }), constant([], int32, [value])).id);
  const draws = tracked(run('BitwiseAnd', on('int16'), bitcast(words, 'int32', 'int16'), scalar16(0x7fff)).id);
  let reached = tracked(run('GreaterEqual', on('int16'), draws, scalar16(threshold)).id);
  if (size % 2 === 1) {
    const flat = tracked(shaped(reached, [size + 1]).id);
    reached = tracked(run('Slice', attributeList({ types: { T: 'bool', Index: 'int32' } }), flat, constant([1], int32, [0]), constant([1], int32, [size])).id);
  }
  const result = shaped(reached, shape);
  for (const id of made) binding.deleteTensor(id);
  return createOutputTensor.call(tensorflow(), result);
}
