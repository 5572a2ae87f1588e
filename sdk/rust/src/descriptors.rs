//! The descriptors of the user's services: what a worker announces and where its methods are found.
//!
//! A file's bytes are kept as they are, because generated Rust code drops custom options and the policies are such.
//! Only source positions are cut out: nobody needs them, and they change with every edited comment.

use crate::pb;
use crate::wire::{Fields, Malformed, Value};
use bytes::Bytes;
use prost::Message;
use prost_types::FileDescriptorProto;
use std::collections::{BTreeMap, BTreeSet};
use tonic::Status;

/// `FileDescriptorProto.source_code_info`.
const SOURCE_CODE_INFO: u32 = 9;

#[derive(Debug)]
struct File {
    raw: Bytes,
    imports: Vec<String>,
    services: Vec<Service>,
}

/// A service as its descriptor says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Service {
    /// Full name.
    pub(crate) name: String,
    /// Its methods, in the order of the file.
    pub(crate) methods: Vec<Method>,
}

/// A method as its descriptor says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Method {
    /// "/package.Service/Method".
    pub(crate) path: String,
    /// Whether it streams in either direction.
    pub(crate) streaming: bool,
}

/// Files by name. Plait's own are there from the start, so a user's set need not hold `plait/v1/options.proto`.
#[derive(Debug)]
pub(crate) struct Descriptors {
    files: BTreeMap<String, File>,
    broken: Option<Malformed>,
}

impl Default for Descriptors {
    fn default() -> Self {
        let mut own = Self {
            files: BTreeMap::new(),
            broken: None,
        };
        own.add(pb::FILE_DESCRIPTOR_SET);
        own.files
            .retain(|name, _| name.starts_with("plait/") || name.starts_with("google/"));
        own
    }
}

impl Descriptors {
    /// Adds a serialized `FileDescriptorSet`. A broken one is told by `check`.
    pub(crate) fn add(&mut self, set: &[u8]) {
        if let Err(malformed) = self.try_add(set) {
            self.broken = Some(malformed);
        }
    }

    fn try_add(&mut self, set: &[u8]) -> Result<(), Malformed> {
        for field in Fields::new(set) {
            if let (1, Value::Bytes(file)) = field? {
                let raw = without_source_info(file)?;
                let file = FileDescriptorProto::decode(raw.as_ref()).map_err(|_| Malformed)?;
                let services = services(&file);
                let name = file.name.unwrap_or_default();
                self.files.insert(
                    name,
                    File {
                        raw,
                        imports: file.dependency,
                        services,
                    },
                );
            }
        }
        Ok(())
    }

    /// Whether everything that was added could be read.
    pub(crate) fn check(&self) -> Result<(), Status> {
        match self.broken {
            None => Ok(()),
            Some(malformed) => Err(Status::invalid_argument(format!(
                "descriptors are no serialized FileDescriptorSet: {malformed}"
            ))),
        }
    }

    /// The service of that full name.
    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.files
            .values()
            .flat_map(|file| &file.services)
            .find(|service| service.name == name)
    }

    /// A serialized set of the files that declare `services`, with their imports before them and without
    /// `google/protobuf/*`, which every protobuf library has.
    pub(crate) fn set_of(&self, services: &[String]) -> Result<Bytes, Status> {
        let mut set = Vec::new();
        let mut seen = BTreeSet::new();
        for name in services {
            let declares = |file: &&File| file.services.iter().any(|service| &service.name == name);
            let Some((path, _)) = self.files.iter().find(|(_, file)| declares(file)) else {
                return Err(Status::failed_precondition(format!(
                    "no descriptor declares {name}"
                )));
            };
            self.append(path, &mut seen, &mut set)?;
        }
        Ok(set.into())
    }

    fn append<'a>(
        &'a self,
        path: &'a str,
        seen: &mut BTreeSet<&'a str>,
        set: &mut Vec<u8>,
    ) -> Result<(), Status> {
        if path.starts_with("google/protobuf/") || !seen.insert(path) {
            return Ok(());
        }
        let Some(file) = self.files.get(path) else {
            return Err(Status::failed_precondition(format!(
                "the descriptors lack {path}, which another file imports: build the set with its imports"
            )));
        };
        for import in &file.imports {
            self.append(import, seen, set)?;
        }
        prost::encoding::bytes::encode(1, &file.raw, set);
        Ok(())
    }
}

fn without_source_info(file: &[u8]) -> Result<Bytes, Malformed> {
    let mut kept = Vec::with_capacity(file.len());
    let mut fields = Fields::new(file);
    while let Some((number, raw)) = fields.raw()? {
        if number != SOURCE_CODE_INFO {
            kept.extend_from_slice(raw);
        }
    }
    Ok(kept.into())
}

fn services(file: &FileDescriptorProto) -> Vec<Service> {
    let package = file.package();
    let dot = if package.is_empty() { "" } else { "." };
    let service = |service: &prost_types::ServiceDescriptorProto| {
        let name = format!("{package}{dot}{}", service.name());
        let methods = service.method.iter().map(|method| Method {
            path: format!("/{name}/{}", method.name()),
            streaming: method.client_streaming() || method.server_streaming(),
        });
        Service {
            methods: methods.collect(),
            name: name.clone(),
        }
    };
    file.service.iter().map(service).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::{FileDescriptorSet, SourceCodeInfo};

    fn all() -> Descriptors {
        let mut descriptors = Descriptors::default();
        descriptors.add(pb::FILE_DESCRIPTOR_SET);
        descriptors.check().expect("own descriptors");
        descriptors
    }

    #[test]
    fn a_service_is_found_with_its_methods() {
        let descriptors = all();
        let echo = descriptors
            .service("testing.v1.EchoService")
            .expect("the test contract");
        assert_eq!(echo.methods[0].path, "/testing.v1.EchoService/Echo");
        assert!(!echo.methods[0].streaming);
        let workers = descriptors
            .service("plait.v1.WorkerService")
            .expect("Plait's own");
        assert!(workers.methods[0].streaming);
        assert_eq!(descriptors.service("testing.v1.Missing"), None);
    }

    #[test]
    fn imports_come_first_and_options_are_kept() {
        let set = all()
            .set_of(&["testing.v1.EchoService".to_owned()])
            .expect("a set");
        let files = FileDescriptorSet::decode(set.as_ref())
            .expect("a valid set")
            .file;
        let names: Vec<_> = files.iter().map(FileDescriptorProto::name).collect();
        let place = |name: &str| names.iter().position(|other| *other == name);
        assert!(place("plait/v1/options.proto") < place("testing/v1/echo.proto"));
        assert!(place("plait/v1/options.proto").is_some(), "{names:?}");
        assert!(
            names
                .iter()
                .all(|name| !name.starts_with("google/protobuf/")),
            "{names:?}"
        );
        // The policy of Append, which prost itself would have dropped.
        let policy = b"entry.id";
        assert!(set.windows(policy.len()).any(|window| window == policy));
    }

    #[test]
    fn what_is_missing_is_named() {
        let descriptors = Descriptors::default();
        let error = descriptors
            .set_of(&["shop.v1.Orders".to_owned()])
            .expect_err("unknown");
        assert!(error.message().contains("shop.v1.Orders"), "{error}");
        let file = FileDescriptorProto {
            name: Some("shop/v1/orders.proto".into()),
            package: Some("shop.v1".into()),
            dependency: vec!["shop/v1/money.proto".into()],
            service: vec![prost_types::ServiceDescriptorProto {
                name: Some("Orders".into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut descriptors = Descriptors::default();
        descriptors.add(&FileDescriptorSet { file: vec![file] }.encode_to_vec());
        let error = descriptors
            .set_of(&["shop.v1.Orders".to_owned()])
            .expect_err("no import");
        assert!(error.message().contains("shop/v1/money.proto"), "{error}");
    }

    #[test]
    fn source_positions_are_cut_out() {
        let file = FileDescriptorProto {
            name: Some("a.proto".into()),
            source_code_info: Some(SourceCodeInfo {
                location: vec![Default::default()],
            }),
            ..Default::default()
        };
        let raw = without_source_info(&file.encode_to_vec()).expect("valid");
        let file = FileDescriptorProto::decode(raw.as_ref()).expect("valid");
        assert_eq!(
            (file.name(), file.source_code_info.is_some()),
            ("a.proto", false)
        );
    }

    #[test]
    fn broken_descriptors_are_refused() {
        for set in [&[0x0a, 5][..], &[0x0a, 1, 0xff], &[0xff]] {
            let mut descriptors = Descriptors::default();
            descriptors.add(set);
            assert!(descriptors.check().is_err(), "{set:?}");
        }
    }
}
