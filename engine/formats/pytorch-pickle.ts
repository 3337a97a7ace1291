import { FormatError } from './format-error.js';
import { kindOf, Tuple, unpickle, type PickleGlobal } from './pickle.js';
import { countElements, elementBytes, type Dtype } from './safetensors-header.js';

/** The types of torch's storages, as torch/storage.py names them. An UntypedStorage is bytes. */
const storageDtypes: Readonly<Record<string, Dtype>> = {
  'torch.FloatStorage': 'F32', 'torch.HalfStorage': 'F16', 'torch.BFloat16Storage': 'BF16', 'torch.DoubleStorage': 'F64',
  'torch.LongStorage': 'I64', 'torch.IntStorage': 'I32', 'torch.ShortStorage': 'I16', 'torch.CharStorage': 'I8',
  'torch.ByteStorage': 'U8', 'torch.BoolStorage': 'BOOL', 'torch.storage.UntypedStorage': 'U8',
};
const dtypes: Readonly<Record<string, Dtype>> = {
  'torch.float32': 'F32', 'torch.float16': 'F16', 'torch.bfloat16': 'BF16', 'torch.float64': 'F64', 'torch.int64': 'I64', 'torch.int32': 'I32',
  'torch.int16': 'I16', 'torch.int8': 'I8', 'torch.uint8': 'U8', 'torch.bool': 'BOOL', 'torch.uint16': 'U16', 'torch.uint32': 'U32', 'torch.uint64': 'U64',
};

class DtypeValue {
  constructor(readonly dtype: Dtype) {}
}

class StorageValue {
  constructor(readonly key: string, readonly dtype: Dtype, readonly elements: number) {}
}

/** A tensor as a pickle describes it: a view of a storage, which may be shared with other tensors. */
export class PickledTensor {
  constructor(
    readonly storage: string,
    readonly dtype: Dtype,
    /** Of its first element in the storage, counted in elements. */
    readonly offset: number,
    readonly shape: readonly number[],
    /** Elements from one index to the next, for each axis. */
    readonly strides: readonly number[],
  ) {}
}

/** What there is to know of a state dict without its bytes. */
export interface PickledTensors {
  tensors: Map<string, PickledTensor>;
  /** Storage → its bytes. */
  storages: Map<string, number>;
}

/** Reads `data.pkl` of a file that torch.save wrote of a dict of tensors. Every place in a storage is checked against its size. */
export function readPickledTensors(bytes: Uint8Array, path: string): PickledTensors {
  const fail = (message: string) => new FormatError('bad_header', path, message);
  const storages = new Map<string, number>();

  const persistent = (id: unknown): StorageValue => {
    const [kind, type, key, , elements] = id instanceof Tuple ? id.items : [];
    const dtype = (type as { value?: object } | undefined)?.value;
    if (kind !== 'storage' || !(dtype instanceof DtypeValue) || typeof key !== 'string' || !isCount(elements)) throw fail('pickle: expected a reference to a storage, got something else');
    const size = elements * elementBytes[dtype.dtype];
    if (!Number.isSafeInteger(size) || (storages.get(key) ?? size) !== size) throw fail(`storage ${key.slice(0, 80)}: expected one size, got another: ${size} bytes`);
    storages.set(key, size);
    return new StorageValue(key, dtype.dtype, elements);
  };

  const rebuild = (args: readonly unknown[], dtype?: Dtype): PickledTensor => {
    const [storage, offset, size, stride] = args;
    const shape = size instanceof Tuple ? size.items : [];
    const strides = stride instanceof Tuple ? stride.items : [];
    if (!(storage instanceof StorageValue) || !isCount(offset) || !(size instanceof Tuple) || !(stride instanceof Tuple) || shape.length !== strides.length || ![...shape, ...strides].every(isCount)) {
      throw fail('pickle: expected a tensor of a storage, an offset, a shape and strides, got something else');
    }
    const type = dtype ?? storage.dtype;
    const capacity = Math.floor((storage.elements * elementBytes[storage.dtype]) / elementBytes[type]);
    const elements = countElements(shape);
    const last = (shape as number[]).reduce((sum, length, axis) => sum + (length - 1) * (strides as number[])[axis], offset);
    // Axes of stride 0 would make a tensor of any size out of one element.
    if (!(elements <= capacity) || (elements > 0 && !(last < capacity))) {
      throw fail(`pickle: expected a tensor within the ${capacity} elements of its storage ${storage.key.slice(0, 80)}, got [${shape.slice(0, 8).join(',')}] with strides [${strides.slice(0, 8).join(',')}] from ${offset} on`);
    }
    return new PickledTensor(storage.key, type, offset, shape as number[], strides as number[]);
  };

  const globals = new Map<string, PickleGlobal>([
    ...Object.entries({ ...storageDtypes, ...dtypes }).map(([name, dtype]): [string, PickleGlobal] => [name, { value: new DtypeValue(dtype) }]),
    ['collections.OrderedDict', { call: (args) => orderedDict(args, fail) }],
    ['torch._utils._rebuild_tensor_v2', { call: (args) => rebuild(args) }],
    ['torch._utils._rebuild_tensor_v3', { call: (args) => rebuild(args, dtypeOf(args[6], fail)) }],
    ['torch._utils._rebuild_parameter', { call: ([tensor]) => requireTensor(tensor, fail) }],
  ]);

  const value = unpickle(bytes, { globals, persistent }, path);
  if (!(value instanceof Map)) throw fail(`pickle: expected a dict of tensors, got ${value instanceof PickledTensor ? 'a single tensor' : kindOf(value)}`);
  const tensors = new Map<string, PickledTensor>();
  for (const [name, tensor] of value as Map<string | number, unknown>) {
    if (!(tensor instanceof PickledTensor)) throw fail(`pickle: expected a dict of tensors, got ${kindOf(tensor)} under ${JSON.stringify(String(name).slice(0, 80))}`);
    tensors.set(String(name), tensor);
  }
  return { tensors, storages };
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function orderedDict(args: readonly unknown[], fail: (message: string) => FormatError): Map<unknown, unknown> {
  if (args.length > 0) throw fail('pickle: expected an empty OrderedDict, got one with arguments');
  return new Map();
}

function dtypeOf(value: unknown, fail: (message: string) => FormatError): Dtype {
  const dtype = (value as { value?: object } | undefined)?.value;
  if (!(dtype instanceof DtypeValue)) throw fail('pickle: expected the dtype of a tensor, got something else');
  return dtype.dtype;
}

function requireTensor(value: unknown, fail: (message: string) => FormatError): PickledTensor {
  if (!(value instanceof PickledTensor)) throw fail(`pickle: expected a parameter that is a tensor, got ${kindOf(value)}`);
  return value;
}
