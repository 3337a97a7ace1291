import { backend, getBackend, scalar, type Tensor } from '@tensorflow/tfjs-core';

/** The part of tfjs-node's backend used here: TensorFlow ops by their own name, without tfjs's checks in between. */
interface NativeBackend {
  binding: Record<'TF_ATTR_TYPE' | 'TF_ATTR_INT' | 'TF_ATTR_BOOL', number>;
  executeSingleOutput(name: string, attributes: NativeAttribute[], inputs: Tensor[]): Tensor;
}
interface NativeAttribute {
  name: string;
  type: number;
  value: unknown;
}

/** TF_DataType of tensorflow/c/tf_datatype.h. */
export const nativeType = { float32: 1, int32: 3, uint8: 4 } as const;
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

/** x where `keep` (bool), else 0. */
export const selectNative = (keep: Tensor, x: Tensor): Tensor => native('SelectV2', [keep, x, scalar(0)], { types: { T: 'float32' } });
