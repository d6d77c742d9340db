//! stub
use std::path::Path; use serde::{Serialize,Deserialize};
use super::RowSource; use crate::{Error, Result, model::Tokenizer};
#[derive(Debug,Clone,Serialize,Deserialize)] pub struct World {}
pub struct Generated { pub corpus: Vec<Vec<u32>>, pub tokenizer: Tokenizer }
impl World { pub fn parse(_t:&str,_p:&Path)->Result<Self>{Err(Error::new("x"))} pub fn generate(&self)->Result<Generated>{Err(Error::new("x"))} pub fn tokenizer(&self)->Result<Tokenizer>{Err(Error::new("x"))} pub fn vocabulary_size(&self)->usize{0}
 pub fn source(&self,_table: &serde_json::Map<String, serde_json::Value>, _seed: u64) -> Result<Box<dyn RowSource>>{Err(Error::new("x"))}}
pub fn source(_table: &serde_json::Map<String, serde_json::Value>, _seed: u64) -> Result<Box<dyn RowSource>> { Err(Error::new("x")) }
