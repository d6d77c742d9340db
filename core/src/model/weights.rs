//! Tensors in safetensors files: found, checked, read and written.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use burn::tensor::Element;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use safetensors::{
    Dtype, View,
    tensor::{Metadata, TensorInfo},
};
use serde::Deserialize;

use super::arch::Layout;
use crate::{Error, Result, error::IoContext};

pub(super) const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;
/// The limit of the format's own implementation.
const LARGEST_HEADER: u64 = 100_000_000;

/// Where every tensor of a model's folder is. Headers are read and checked; values are read when asked for.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    tensors: BTreeMap<String, Place>,
    files: Vec<PathBuf>,
    /// Why a tensor that the index names is not there. It is an error where the model needs it.
    lost: BTreeMap<String, Error>,
}

/// One tensor in one file.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    /// Byte offset from the start of the file.
    start: u64,
    info: TensorInfo,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Reads the headers of `model.safetensors`, or of all files that `model.safetensors.index.json` names.
    pub fn open(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        let mut weights = Self { tensors: BTreeMap::new(), files: Vec::new(), lost: BTreeMap::new() };
        if single.exists() {
            weights.add(single, None)?;
            return Ok(weights);
        }
        if !index.exists() {
            return Err(Error::new(format!("there is neither `{SINGLE}` nor `{INDEX}`"))
                .in_file(folder)
                .help("other formats are not read; `save_pretrained` of transformers writes safetensors"));
        }
        let text = fs::read_to_string(&index).path("read the index of the weights", &index)?;
        let map: Index = serde_json::from_str(&text)
            .map_err(|cause| Error::new(format!("the index of the weights cannot be read: {cause}")).in_file(&index))?;
        let mut promised: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in &map.weight_map {
            if Path::new(file).file_name().is_none_or(|name| name != file.as_str()) {
                let message = format!("`{file}` is not the name of a file in the model's folder");
                return Err(Error::new(message).in_file(index));
            }
            promised.entry(file).or_default().push(tensor);
        }
        for (file, tensors) in promised {
            let path = folder.join(file);
            if let Err(error) = File::open(&path).path("open the weights", &path) {
                // A file of nothing but tensors that no model here needs may be missing.
                weights.lost.extend(tensors.iter().map(|tensor| ((*tensor).to_owned(), error.clone())));
                continue;
            }
            weights.add(path, Some(&map.weight_map))?;
            let path = &weights.files[weights.files.len() - 1];
            for tensor in tensors.into_iter().filter(|tensor| !weights.tensors.contains_key(*tensor)) {
                let message = format!("tensor `{tensor}` is missing, though the index says it is here");
                weights.lost.insert(tensor.to_owned(), Error::new(message).in_file(path));
            }
        }
        Ok(weights)
    }

    /// Reads the header of one file.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut weights = Self { tensors: BTreeMap::new(), files: Vec::new(), lost: BTreeMap::new() };
        weights
            .add(path.to_owned(), None)
            .map_err(|error| error.or_else_help("get the file again: it is damaged, or not complete"))?;
        Ok(weights)
    }

    /// Adds the tensors of one file. Where an index has several files, one that it puts elsewhere is not taken from here.
    fn add(&mut self, path: PathBuf, index: Option<&BTreeMap<String, String>>) -> Result<()> {
        let (data_start, metadata) = read_header(&path)?;
        let file = self.files.len();
        let here = path.file_name().and_then(|name| name.to_str());
        let elsewhere =
            |name: &str| index.and_then(|map| map.get(name)).is_some_and(|file| Some(file.as_str()) != here);
        for (name, info) in metadata.tensors().into_iter().filter(|(name, _)| !elsewhere(name)) {
            let place = Place { file, start: data_start + info.data_offsets.0 as u64, info: info.clone() };
            self.tensors.entry(name).or_insert(place);
        }
        self.files.push(path);
        Ok(())
    }

    /// Why none of some tensors can be found.
    pub fn missing(&self, names: &[String]) -> Option<Error> {
        names.iter().find_map(|name| self.lost.get(name)).cloned()
    }

    /// Files the tensors are in.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Names of all tensors, sorted, with their files.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.tensors.iter().map(|(name, place)| (name.as_str(), self.files[place.file].as_path()))
    }

    /// The first of some names that is there.
    pub fn find<'a>(&self, names: &'a [String]) -> Option<&'a str> {
        names.iter().find(|name| self.tensors.contains_key(*name)).map(String::as_str)
    }

    /// Shape of a tensor, as in the file.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|place| place.info.shape.as_slice())
    }

    /// An error about a tensor that is there.
    pub fn blame(&self, name: &str, message: String) -> Error {
        let error = Error::new(message);
        match self.tensors.get(name) {
            Some(place) => error.in_file(&self.files[place.file]),
            None => error,
        }
    }

    /// Checks type and shape of a tensor against the parameter's.
    pub fn check(&self, name: &str, shape: &[usize], layout: Layout) -> Result<()> {
        let Some(place) = self.tensors.get(name) else {
            return Err(Error::new(format!("tensor `{name}` is missing")));
        };
        let expected = layout.shape(shape);
        if place.info.shape != expected {
            let message =
                format!("tensor `{name}` has shape {:?}, the configuration asks for {expected:?}", place.info.shape);
            return Err(self.blame(name, message).help("do `config.json` and the weights belong to the same model?"));
        }
        if !matches!(place.info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let message = format!("tensor `{name}` holds {} values; only F32, F16 and BF16 are read", place.info.dtype);
            return Err(self.blame(name, message));
        }
        Ok(())
    }

    /// Values of a tensor that was [checked](Self::check), as the parameter wants them; there is no copy of them in another format than the
    /// one asked for.
    pub fn read<T: Number>(&self, name: &str, shape: &[usize], layout: Layout, heads: usize) -> Result<Vec<T>> {
        self.check(name, shape, layout)?;
        let place = &self.tensors[name];
        let path = &self.files[place.file];
        let size = place.info.data_offsets.1 - place.info.data_offsets.0;
        let width = place.info.dtype.bitsize() / 8;
        let reading = format!("read tensor `{name}`");
        let mut file = File::open(path).path(&reading, path)?;
        file.seek(SeekFrom::Start(place.start)).path(&reading, path)?;
        let mut values = Vec::with_capacity(size / width);
        let mut buffer = vec![0; CHUNK.min(size)];
        for start in (0..size).step_by(CHUNK) {
            let bytes = &mut buffer[..CHUNK.min(size - start)];
            file.read_exact(bytes).path(&reading, path)?;
            let part = floats(bytes, place.info.dtype);
            self.refuse_not_finite(name, &part, start / width)?;
            values.extend(part.into_iter().map(T::of));
        }
        Ok(layout.to_ours(values, shape, heads))
    }

    /// BLAKE3 hash of each file, all of its bytes. As every byte is read anyway, the values of the tensors that `needed` names are
    /// looked at too; what lies beside them is not the model's.
    ///
    /// # Errors
    /// A file cannot be read, or a needed tensor holds a value that is not finite.
    pub fn hashes(&self, needed: &BTreeSet<&str>) -> Result<Vec<blake3::Hash>> {
        (0..self.files.len()).map(|file| self.hash(file, needed)).collect()
    }

    fn hash(&self, file: usize, needed: &BTreeSet<&str>) -> Result<blake3::Hash> {
        let path = &self.files[file];
        let mut tensors: Vec<(&String, &Place)> = self.tensors.iter().filter(|(_, place)| place.file == file).collect();
        tensors.sort_by_key(|(_, place)| place.start);
        let mut hasher = blake3::Hasher::new();
        let mut input = File::open(path).path("open the weights", path)?;
        let mut buffer = Vec::with_capacity(CHUNK);
        // Up to `count` bytes, which are then in the buffer.
        let mut next = |buffer: &mut Vec<u8>, count: usize| -> Result<()> {
            buffer.clear();
            input.by_ref().take(count as u64).read_to_end(buffer).path("read the weights", path)?;
            hasher.update(buffer);
            Ok(())
        };
        let mut at = 0;
        for (name, place) in tensors {
            // The header, and tensors that the index puts into another file.
            next(&mut buffer, (place.start - at) as usize)?;
            let size = place.info.data_offsets.1 - place.info.data_offsets.0;
            at = place.start + size as u64;
            let width = place.info.dtype.bitsize() / 8;
            for start in (0..size).step_by(CHUNK) {
                next(&mut buffer, CHUNK.min(size - start))?;
                if needed.contains(name.as_str()) {
                    self.refuse_not_finite(name, &floats(&buffer, place.info.dtype), start / width)?;
                }
            }
        }
        loop {
            next(&mut buffer, CHUNK)?;
            if buffer.is_empty() {
                return Ok(hasher.finalize());
            }
        }
    }

    /// Refuses values of a tensor, from its element `first` on, that are no numbers.
    fn refuse_not_finite(&self, name: &str, values: &[f32], first: usize) -> Result<()> {
        let Some(at) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
        let message = format!("tensor `{name}` holds {} at element {}", values[at], first + at);
        Err(self.blame(name, message).help("the file is damaged, or training diverged before it was saved"))
    }
}

/// In what a parameter's values are held.
pub(super) trait Number: Element + Copy + Default {
    /// The nearest number.
    fn of(value: f32) -> Self;
}

impl Number for f32 {
    fn of(value: f32) -> Self {
        value
    }
}

impl Number for bf16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// Values of a floating-point tensor.
fn floats(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => halves(bytes, f16::from_bits).to_f32_vec(),
        _ => halves(bytes, bf16::from_bits).to_f32_vec(),
    }
}

fn halves<T>(bytes: &[u8], from: impl Fn(u16) -> T) -> Vec<T> {
    bytes.chunks_exact(2).map(|b| from(u16::from_le_bytes([b[0], b[1]]))).collect()
}

/// Reads and checks the header of a file: every tensor lies inside the file, none overlaps, nothing is left over.
fn read_header(path: &Path) -> Result<(u64, Metadata)> {
    let damaged = |what: String| Error::new(format!("not a whole safetensors file: {what}")).in_file(path);
    let mut file = File::open(path).path("open the weights", path)?;
    let size = file.metadata().path("read the size of the weights", path)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| damaged("it is shorter than 8 bytes".to_owned()))?;
    let start = length;
    let length = u64::from_le_bytes(length);
    if length > LARGEST_HEADER || length > size - 8 {
        let mut start = start.to_vec();
        file.take(56).read_to_end(&mut start).path("read the weights", path)?;
        if let Some(error) = Error::stand_in(&start, "weights") {
            return Err(error.in_file(path));
        }
        return Err(damaged(format!("its header claims {length} bytes of a file of {size}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).path("read the header of the weights", path)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|cause| damaged(format!("its header is wrong: {cause}")))?;
    let expected = 8 + length + metadata.data_len() as u64;
    if expected != size {
        return Err(damaged(format!("it has {size} bytes and its header describes {expected}")));
    }
    Ok((8 + length, metadata))
}

impl Layout {
    /// Shape in the files of a parameter of shape `ours`.
    fn shape(self, ours: &[usize]) -> Vec<usize> {
        match (self, ours) {
            (Layout::Linear | Layout::LinearPerHead, &[inputs, outputs]) => vec![outputs, inputs],
            _ => ours.to_vec(),
        }
    }

    /// Brings values from the files into the model's order; `shape` is the model's, `heads` the number of attention heads.
    fn to_ours<T: Copy + Default>(self, values: Vec<T>, shape: &[usize], heads: usize) -> Vec<T> {
        let outputs = shape[shape.len() - 1];
        let values = match self {
            Layout::LinearPerHead => permute(&values, values.len() / outputs, |row| from_per_head(row, outputs, heads)),
            _ => values,
        };
        match (self, shape) {
            (Layout::Linear | Layout::LinearPerHead, &[inputs, outputs]) => transpose(&values, outputs, inputs),
            _ => values,
        }
    }

    /// The inverse of [`to_ours`](Self::to_ours).
    fn to_theirs(self, values: Vec<f32>, shape: &[usize], heads: usize) -> Vec<f32> {
        let outputs = shape[shape.len() - 1];
        let values = match (self, shape) {
            (Layout::Linear | Layout::LinearPerHead, &[inputs, outputs]) => transpose(&values, inputs, outputs),
            _ => values,
        };
        match self {
            Layout::LinearPerHead => permute(&values, values.len() / outputs, |row| to_per_head(row, outputs, heads)),
            _ => values,
        }
    }
}

/// Where row (part, head, dimension) comes from in the order (head, part, dimension), of `rows` with 3 parts.
fn from_per_head(row: usize, rows: usize, heads: usize) -> usize {
    let width = rows / 3 / heads;
    let (part, head, dimension) = (row / width / heads, row / width % heads, row % width);
    (head * 3 + part) * width + dimension
}

/// The inverse of [`from_per_head`].
fn to_per_head(row: usize, rows: usize, heads: usize) -> usize {
    let width = rows / 3 / heads;
    let (head, part, dimension) = (row / width / 3, row / width % 3, row % width);
    (part * heads + head) * width + dimension
}

/// Rows of `width` values, row i taken from row `source(i)`.
fn permute<T: Copy>(values: &[T], width: usize, source: impl Fn(usize) -> usize) -> Vec<T> {
    (0..values.len() / width).flat_map(|row| &values[source(row) * width..][..width]).copied().collect()
}

/// Transposes a matrix of `rows` rows, block by block for the sake of the cache.
fn transpose<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    const BLOCK: usize = 32;
    let mut out = vec![T::default(); values.len()];
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..columns).step_by(BLOCK) {
            for row in top..rows.min(top + BLOCK) {
                for column in left..columns.min(left + BLOCK) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

/// A parameter on its way into a file; its values are fetched when they are written, so that only one is in memory twice.
pub(super) struct Outgoing {
    /// Name in the file.
    pub name: String,
    /// Shape in the model.
    pub shape: Vec<usize>,
    /// How values lie in the file.
    pub layout: Layout,
    /// Number of attention heads.
    pub heads: usize,
    /// The numbers in the file: float32, or bfloat16 where the values are such.
    pub dtype: Dtype,
    /// The values in the model's order.
    pub values: Box<dyn Fn() -> Vec<f32>>,
}

/// An [`Outgoing`] with the shape it has in the file.
struct Written(Outgoing, Vec<usize>);

impl View for Written {
    fn dtype(&self) -> Dtype {
        self.0.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let Outgoing { shape, layout, heads, dtype, values, .. } = &self.0;
        let values = layout.to_theirs(values(), shape, *heads);
        let bytes: Vec<u8> = match dtype {
            Dtype::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.1.iter().product::<usize>() * self.0.dtype.bitsize() / 8
    }
}

/// Writes a file of tensors.
pub(super) fn write(path: &Path, tensors: Vec<Outgoing>) -> Result<()> {
    let tensors = tensors.into_iter().map(|tensor| {
        let shape = tensor.layout.shape(&tensor.shape);
        (tensor.name.clone(), Written(tensor, shape))
    });
    // transformers refuses files that do not say for whom they were written.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|cause| match cause {
        safetensors::SafeTensorError::IoError(cause) => Error::of_io("write the weights", &cause, path),
        cause => Error::new(format!("cannot write the weights: {cause}")).in_file(path),
    })
}
