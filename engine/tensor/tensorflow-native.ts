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
export const nativeType = { float32: 1, int32: 3, uint8: 4, int64: 9, uint64: 23 } as const;
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
 * Uniform float32 in [0, 1) from TensorFlow's Philox4x32-10: the low 23 bits of word i of the stream, as a fraction of 2^23.
 * @param key, counter 32-bit words, least significant first: 2 and 4 of them
 */
export function philoxUniform(shape: number[], key: number[], counter: number[]): Tensor {
  const { binding, createOutputTensor } = tensorflow();
  const { int32, int64 } = nativeType;
  // The op wants 64-bit unsigned words, which tfjs cannot hold, so these few tensors are made and freed by hand.
  const signed = [key, counter].map((words) => binding.createTensor([words.length / 2], int64, Int32Array.from(words, (word) => word | 0)));
  const bitcast = attributeList({ types: { T: 'int64', type: 'uint64' } });
  const unsigned = signed.map((id) => binding.executeOp('Bitcast', bitcast, [id], 1)[0].id);
  const sizes = binding.createTensor([shape.length], int32, Int32Array.from(shape));
  const algorithm = binding.createTensor([], int32, Int32Array.of(philoxAlgorithm));
  const attributes = attributeList({ types: { dtype: 'float32', Tshape: 'int32' } });
  const [uniform] = binding.executeOp('StatelessRandomUniformV2', attributes, [sizes, ...unsigned, algorithm], 1);
  for (const id of [...signed, ...unsigned, sizes, algorithm]) binding.deleteTensor(id);
  return createOutputTensor.call(tensorflow(), uniform);
}
