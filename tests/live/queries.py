"""What is asked of the webserver."""

LOCATIONS = """query { workspaceOrError { ... on Workspace { locationEntries { name loadStatus
  locationOrLoadError { __typename ... on PythonError { message errorChain { error { message } } } } } }
  ... on PythonError { message } } }"""

RELOAD = """mutation($location: String!) { reloadRepositoryLocation(repositoryLocationName: $location) {
  __typename ... on PythonError { message } } }"""

DAEMONS = """query { instance { daemonHealth { allDaemonStatuses {
  daemonType required healthy lastHeartbeatTime } } } }"""

LAUNCH = """mutation($parameters: ExecutionParams!) { launchPipelineExecution(executionParams: $parameters) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message stack }
  ... on RunConfigValidationInvalid { errors { message } } ... on PresetNotFoundError { message } } }"""

BACKFILL = """mutation($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  ... on PartitionKeysNotFoundError { message } } }"""

BACKFILL_STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename
  ... on PartitionBackfill { status error { message } } } }"""

RUNS = """query($limit: Int!, $filter: RunsFilter) { runsOrError(limit: $limit, filter: $filter) { ... on Runs {
  results { runId status jobName startTime endTime tags { key value } assetSelection { path } } } } }"""

LOGS = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { __typename
  ... on MessageEvent { message } } } } }"""

TERMINATE = """mutation($id: String!) { terminateRun(runId: $id) { __typename
  ... on TerminateRunFailure { message } ... on PythonError { message } } }"""

STALE = """query($key: AssetKeyInput!, $partition: String) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  staleStatus(partition: $partition) staleCauses(partition: $partition) { reason } } } }"""

MATERIALIZATIONS = """query($key: AssetKeyInput!, $partitions: [String!]) { assetOrError(assetKey: $key) {
  ... on Asset { assetMaterializations(partitions: $partitions, limit: 100) { runId timestamp partition
  metadataEntries { label
  ... on FloatMetadataEntry { floatValue } ... on IntMetadataEntry { intValue } ... on BoolMetadataEntry { boolValue }
  ... on TextMetadataEntry { text } ... on PathMetadataEntry { path } ... on MarkdownMetadataEntry { mdStr }
  ... on JsonMetadataEntry { jsonString } } } } } }"""

START_SENSOR = """mutation($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename
  ... on PythonError { message } } }"""

RESET_SENSOR = """mutation($selector: SensorSelector!) { resetSensor(sensorSelector: $selector) { __typename
  ... on PythonError { message } } }"""
