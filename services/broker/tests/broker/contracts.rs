//! Making methods known.

use plait::pb::v1 as pb;

use crate::support::{Broker, ECHO};

#[tokio::test]
async fn a_declared_method_is_resolved() {
    let broker = Broker::start().await;
    let methods = vec![ECHO.to_owned(), "/no.Such/Method".to_owned()];
    let request = pb::ResolveMethodsRequest { methods };
    let found = broker
        .contracts()
        .resolve_methods(request)
        .await
        .unwrap()
        .into_inner()
        .methods;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].method.as_str(), found[0].queue.as_str()),
        (ECHO, "test")
    );
}
